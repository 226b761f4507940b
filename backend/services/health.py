"""Health of an installation's parts: gateway, broker, workers, database, store and clusters, watched beside the pages.

Every part has a thread of its own, so that one which hangs delays no other, and no page waits for any.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx2
from sqlalchemy import select, text

from backend.db.engine import RESTORE, find_damage
from backend.db.tables import Deployment, Job, Replica
from backend.domain.jobs.states import Status
from backend.domain.wording import plural
from backend.errors import NotFound
from backend.services.context import Context
from backend.services.jobs.placements import list_providers
from backend.services.jobs.queue_position import count_waiting
from backend.services.jobs.workers import list_workers

EVERY_S = 3.0
STORE_EVERY_S = 15.0
"""Stores of clouds count requests, and charge for them."""
FILE_S, FILE_EVERY_S = 1.0, 300.0
"""Time of a check of the database's file, and that between two."""
TIMEOUT_S = 2.0
OVERDUE_S = 6.0
"""Age of a check under way, after which its part counts as silent."""
SILENT_SHARE = 2 / 3
"""Share of a lease, renewed every quarter, in which nothing was heard of a replica that counts as lost."""
START_S = 20.0
"""Time that parts which start together with the pages have for their first answer."""


@dataclass(frozen=True)
class Outage:
    """A part that fails: its name, what that means, and what to do."""

    part: str
    cause: str
    cure: str


GATEWAY = Outage(
    "Gateway",
    "The gateway does not answer: chats and requests of clients fail, whatever the endpoints' replicas say.",
    "What runs this installation starts it again within seconds. If it stays away for a minute, see `logs/gateway.log`"
    " in the home folder; only then `roundhouse down` and `roundhouse up`: runs are saved, and continue.",
)
BROKER = Outage(
    "Broker",
    "The broker does not answer: new jobs stay queued, and start within seconds when it is back. Running jobs"
    " continue.",
    "See `logs/broker.log` in the home folder, or the server that `REDIS_URL` names.",
)
DATABASE = Outage(
    "Database",
    "The database does not answer: pages can't be read, and nothing new is stored. Endpoints keep answering.",
    "Check the server that `DATABASE_URL` names, and the disk.",
)
DAMAGED = Outage(
    "Database",
    "The database is damaged: part of it can't be read, and what is stored now may be lost.",
    RESTORE,
)
STORE = Outage(
    "Store",
    "The store of artifacts does not answer: what has no copy on this machine can't be opened. Runs continue, and what"
    " they write is sent when it is back.",
    "Check the server or mount that `ROUNDHOUSE_ARTIFACTS` names; `roundhouse doctor` tries it.",
)


class HealthWatch:
    """Checks of every part, repeated in threads until `close`. Before `start` no part counts as failing."""

    def __init__(self) -> None:
        self._checks: tuple[_Check, ...] = ()
        self._stopped = threading.Event()

    def start(self, ctx: Context) -> None:
        """Watch an installation."""
        self.close()
        self._stopped = threading.Event()
        self._checks = tuple(
            _Check(check, silent, time.monotonic, every_s=every_s)
            for check, silent, every_s in (
                (lambda: ping_database(ctx), DATABASE, EVERY_S),
                (lambda: check_file(ctx), None, FILE_EVERY_S),
                (lambda: None if ctx.queue.is_alive() else BROKER, BROKER, EVERY_S),
                (lambda: check_gateway(ctx), GATEWAY, EVERY_S),
                (lambda: check_workers(ctx), None, EVERY_S),
                (lambda: check_endpoints(ctx), None, EVERY_S),
                (lambda: check_providers(ctx), None, EVERY_S),
                (lambda: check_store(ctx), STORE, STORE_EVERY_S),
            )
        )
        for check in self._checks:
            threading.Thread(target=check.repeat, args=(self._stopped,), daemon=True, name="health").start()

    def close(self) -> None:
        """End the checks; one under way ends by itself."""
        self._stopped.set()
        self._checks = ()

    def outages(self) -> tuple[Outage, ...]:
        """Return the parts that fail now, from memory. Workers and clusters are known through the database: silent with
        it, they are left out.
        """
        failing = (check.outage() for check in self._checks)
        return tuple(dict.fromkeys(outage for outage in failing if outage is not None))

    def fails(self, part: Outage) -> bool:
        """Return whether a part fails now."""
        return part in self.outages()


class _Check:
    """One part's check: what it said last, and since when it has not come back."""

    def __init__(
        self,
        check: Callable[[], Outage | None],
        silent: Outage | None,
        clock: Callable[[], float],
        *,
        every_s: float = EVERY_S,
    ) -> None:
        self._check, self._silent, self._clock, self._every_s = check, silent, clock, every_s
        self._begun = clock()
        self._under_way = False
        self._last: Outage | None = None
        self._grace_until = clock() + START_S

    def repeat(self, stopped: threading.Event) -> None:
        self.run()
        while not stopped.wait(self._every_s):
            self.run()

    def run(self) -> None:
        self._begun, self._under_way = self._clock(), True
        try:
            self._last = self._check()
            if self._last is None:
                self._grace_until = 0.0
        except Exception:  # whatever the driver raises: the part did not answer
            self._last = self._silent
        finally:
            self._under_way = False

    def outage(self) -> Outage | None:
        now = self._clock()
        if now < self._grace_until:
            return None
        if self._under_way and now - self._begun > OVERDUE_S:
            return self._silent
        return self._last


def ping_database(ctx: Context) -> Outage | None:
    """Read one row. Raises the driver's errors."""
    if ctx.db.is_damaged:
        return DAMAGED
    with ctx.db.read() as session:
        session.execute(text("select 1"))
    return None


def check_file(ctx: Context) -> Outage | None:
    """Look for damage in the file of a SQLite database, as far as a second reads. Raises sqlite3.OperationalError."""
    path = ctx.db.engine.url.database
    if ctx.db.is_sqlite and path and find_damage(Path(path), within_s=FILE_S) is not None:
        ctx.db.is_damaged = True
        return DAMAGED
    return None


def check_gateway(ctx: Context) -> Outage | None:
    """Ask the gateway whether it is there, on this machine and then at its public address, which may not be reachable
    from here; any status is an answer. Raises httpx2.HTTPError.
    """
    for url in dict.fromkeys((ctx.own_gateway_url or ctx.gateway_url, ctx.gateway_url)):
        try:
            httpx2.get(f"{url}/health", timeout=TIMEOUT_S, trust_env=False)  # past proxies of the environment
            return None
        except httpx2.HTTPError:
            if url == ctx.gateway_url:
                raise
    return None


def check_workers(ctx: Context) -> Outage | None:
    """Name queues whose jobs wait without a worker that takes them, and machines whose workers vanished.

    Raises the driver's errors.
    """
    workers = list_workers(ctx)
    silent = [worker for worker in workers if not worker.is_alive]
    served = {queue for worker in workers if worker.takes_jobs for queue in worker.queues}
    with ctx.db.read() as session:
        waiting = count_waiting(session)
    cure = (
        "See the Workers page; `roundhouse down`, then `roundhouse up` starts this machine's workers again (runs are"
        " saved, and continue), `roundhouse worker` those of another."
    )
    if unserved := {queue: number for queue, number in waiting.items() if queue not in served}:
        jobs = ", ".join(f"{plural(number, 'job')} for `{queue}`" for queue, number in sorted(unserved.items()))
        reasons = sorted({worker.gauges.takes_no_jobs for worker in workers if worker.is_alive} - {""})
        cause = f"No worker answers for jobs that wait: {jobs}."
        return Outage("Workers", " ".join([cause, *reasons]), cure)
    if silent:
        queues = ", ".join(sorted({queue for worker in silent for queue in worker.queues}))
        hosts = ", ".join(sorted({worker.host for worker in silent}))
        return Outage(
            "Workers",
            f"Workers on {hosts} do not answer any more (queues {queues}). Their jobs wait for other workers.",
            cure,
        )
    return None


def check_endpoints(ctx: Context) -> Outage | None:
    """Count the endpoints that had a replica and lost it, and have no other that answers; none is named, since the line
    is shown to raters too. Raises the driver's errors.
    """
    now = ctx.now()
    heard_since = timedelta(seconds=ctx.policy.lease_s * (1 - SILENT_SHARE))
    query = (
        select(
            Deployment.endpoint_id, Replica.status, Replica.ready_at, Job.status, Job.lease_until, Job.lost, Job.error
        )
        .join(Deployment, Deployment.id == Replica.deployment_id)
        .join(Job, Job.id == Replica.job_id)  # none of another server, which has a check of its own
        .where(Deployment.role == "stable", Replica.status.in_(("starting", "ready")))
    )
    answering, lost = set[str](), set[str]()
    with ctx.db.read() as session:
        for endpoint, replica, ready_at, job, lease_until, num_lost, error in session.execute(query):
            is_heard = lease_until is not None and lease_until - now > heard_since
            if replica == "ready" and job == Status.RUNNING and is_heard:
                answering.add(endpoint)
            elif ready_at is not None and (num_lost or error.cause or (job == Status.RUNNING and not is_heard)):
                lost.add(endpoint)
    if not (away := len(lost - answering)):
        return None
    return Outage(
        "Endpoints",
        f"No replica of {plural(away, 'endpoint')} answers: requests to {'it' if away == 1 else 'them'} fail with 503.",
        "Their replicas are started again. If they stay away, see the Endpoints page and the replicas' logs there.",
    )


def check_providers(ctx: Context) -> Outage | None:
    """Name the clusters that runs can't be sent to, without their problem, which Launch tells: the line is shown to
    people who are not signed in. Raises the driver's errors.
    """
    failing = [provider.title for provider in list_providers(ctx) if provider.problem]
    if not failing:
        return None
    return Outage(
        "Cluster",
        f"Runs can't be sent to {' and '.join(failing)}. Those under way continue.",
        "Launch says why; `roundhouse doctor`, on the machine that has the cluster's settings, asks it again.",
    )


def check_store(ctx: Context) -> Outage | None:
    """Ask the store of artifacts, if there is one, for an object that it does not have. Raises Unavailable."""
    if ctx.artifacts.store is not None:
        with suppress(NotFound):
            ctx.artifacts.store.objects.read("is-there", within_s=TIMEOUT_S)
    return None


HEALTH = HealthWatch()
"""The watch of this process: started with the pages' server."""
