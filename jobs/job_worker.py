"""A worker for one job, started by a compute provider: it claims the job as often as it is queued, and leaves when the
job has ended or nothing happened for a while. Of a job of several machines each has such a worker, and they take it all
or none. No broker, no queue, no duty. Imports no torch.

python -m jobs.job_worker JOB SECONDS
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import replace

from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError

from backend.bootstrap import explain_newer_database, get_context
from backend.domain.jobs.states import TERMINAL, Status
from backend.errors import NotFound
from backend.infra.devices import visible_devices
from backend.infra.engines import installed_engines
from backend.services.context import Context
from backend.services.jobs.claims import claim_next
from backend.services.jobs.gangs import choose_placed
from backend.services.jobs.jobs import JobView, get_job
from backend.settings import Settings
from jobs.gang_member import work_in_gang
from jobs.runner import execute

log = logging.getLogger(__name__)

POLL_S = 2.0
IN_POD = "KUBERNETES_SERVICE_HOST"
"""A variable that Kubernetes gives to the containers of every pod."""
SEND_S, LAST_S = 300.0, 10.0
"""How long it stays for what the store has yet to have, since its machine may go with it; and when asked to end."""
ENDED_BY_REQUEST = 128 + signal.SIGTERM
"""Exit status of a pod that was asked to end before its job had: Kubernetes replaces an evicted one, but takes one that
ends with 0 for done, and the other machines of a run would wait for it. Elsewhere 0: Slurm ends all workers of a step
for any other status, while they may still be saving.
"""


def work_for(ctx: Context, settings: Settings, job_id: str, *, until_idle_s: float, stopping: threading.Event) -> int:
    """Run a job's attempts one after the other. Returns an exit status: 1 if the job still waits when this worker
    leaves because it found nothing to do, or since a newer version has upgraded the database; in a pod,
    `ENDED_BY_REQUEST` if it is stopped before the job has ended.
    """
    devices = visible_devices(settings.devices)
    host = os.environ.get("ROUNDHOUSE_WORKER_HOST") or socket.gethostname()
    idle_since = time.monotonic()
    status = Status.QUEUED
    while not stopping.is_set():
        try:
            if reason := explain_newer_database(ctx.db):
                log.error("This worker takes no job. %s Start it from the updated installation.", reason)
                return 1
            job = get_job(ctx, job_id)
            if (status := job.status) in TERMINAL:
                return 0
            patience_s = max(0.0, until_idle_s - (time.monotonic() - idle_since))
            if _take_and_run(ctx, settings, job, host=host, devices=devices, waits_s=patience_s, stopping=stopping):
                idle_since = time.monotonic()
                continue
        except OperationalError as error:  # the database is away: a lease that lapses meanwhile is taken back by others
            log.warning("the database does not answer: %s", error)
        if time.monotonic() - idle_since >= until_idle_s:
            log.warning(
                "job %s is %s and was not to be had in %.0f s (GPUs: %s)", job_id, status, until_idle_s, devices
            )
            return 1 if status is Status.QUEUED else 0
        stopping.wait(POLL_S)
    return ENDED_BY_REQUEST if IN_POD in os.environ and not _has_ended(ctx, job_id) else 0


def _has_ended(ctx: Context, job_id: str) -> bool:
    """Return whether a job is over, as far as the database can be asked."""
    try:
        return get_job(ctx, job_id).status in TERMINAL
    except OperationalError:
        return False


def _take_and_run(
    ctx: Context,
    settings: Settings,
    job: JobView,
    *,
    host: str,
    devices: tuple[str, ...],
    waits_s: float,
    stopping: threading.Event,
) -> bool:
    """Run an attempt of a job, or this machine's part of one, if it is to be had; return whether it was. The other
    machines of a job of several are waited for at most `waits_s`.
    """
    owner = f"{host}/{job.queue}#{os.getpid()}"
    nice, save_s = settings.train_nice, settings.save_grace_s
    if job.num_machines > 1:
        choice = choose_placed(ctx, job.id, host=host, devices=devices)
        if choice is None:
            return False
        return work_in_gang(
            ctx,
            choice,
            owner=owner,
            host=host,
            devices=devices,
            nice=nice,
            stopping=stopping,
            waits_s=waits_s,
            save_s=save_s,
        )
    claim = claim_next(
        ctx, job.queue, owner=owner, host=host, devices=devices, engines=installed_engines(), job_id=job.id
    )
    if claim is None:
        return False
    log.warning("%s takes attempt %s of job %s", owner, claim.attempt, job.id)
    execute(ctx, claim, nice=nice, stopping=stopping, save_s=save_s)
    return True


def address_to(url: str) -> str:
    """Return this machine's address on the way to a database, which is one that the other machines of a run reach, too;
    empty if the database is a file or a socket of this machine.
    """
    host = make_url(url).host
    if not host or host.startswith("/"):
        return ""
    family, kind, protocol, _, target = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(target)  # sends nothing
        return str(probe.getsockname()[0])


def _with_address(ctx: Context, settings: Settings) -> Context:
    """Return a context with this machine's address, at which the machines of a run meet, unless a setting names one."""
    if "replica_host" in settings.model_fields_set:
        return ctx
    try:
        address = address_to(settings.database_url)
    except OSError as error:
        log.warning("no way to the database's machine: %s", error)
        return ctx
    return replace(ctx, policy=replace(ctx.policy, replica_host=address)) if address else ctx


def main() -> int:
    """Work for the job that the arguments name until a signal asks to end, which saves a run and gives it back."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, lambda *_: stopping.set())
    job_id, until_idle_s = sys.argv[1], float(sys.argv[2])
    ctx = get_context()
    try:
        get_job(ctx, job_id)
    except NotFound as error:
        sys.exit(f"Error: {error}")
    ctx.artifacts.start_sending()
    settings = Settings()
    try:
        return work_for(_with_address(ctx, settings), settings, job_id, until_idle_s=until_idle_s, stopping=stopping)
    finally:
        ctx.artifacts.finish_sending(within_s=LAST_S if stopping.is_set() else SEND_S, is_last=True)


if __name__ == "__main__":
    sys.exit(main())
