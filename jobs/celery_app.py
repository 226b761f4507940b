"""The Celery application of a worker: one task that runs jobs in threads, and a thread for heartbeats and job recovery.
Imports no torch.

celery -A jobs.celery_app worker -Q train,eval,serve,cpu -c 12
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from celery import signals
from sqlalchemy.exc import SQLAlchemyError

from backend.bootstrap import explain_newer_database, get_context
from backend.infra.devices import read_machine_gauges, visible_devices
from backend.infra.engines import installed_engines
from backend.infra.processes import trim_memory_beside
from backend.infra.queue import TASK, make_celery
from backend.services.context import Context
from backend.services.data.tokens import remove_unused_tokens
from backend.services.evaluation.open_suites import list_open_results, release_scored
from backend.services.jobs.claims import claim_next
from backend.services.jobs.folders import remove_job_folders
from backend.services.jobs.gangs import choose_gang
from backend.services.jobs.recovery import recover_jobs
from backend.services.jobs.workers import beat, explain_full_disk, say_goodbye, take_duties
from backend.services.serving.autoscaling import autoscale_endpoints
from backend.services.serving.monitoring.tick import run_monitor
from backend.services.serving.replicas import advance_endpoints, has_canary, remove_prepared_weights
from backend.services.training.open_sweeps import list_open_sweeps
from backend.settings import Settings
from jobs.pool import JobThreads, QueuesWithRoom, Slots

log = logging.getLogger(__name__)
settings = Settings()
devices = visible_devices(settings.devices)
slots = Slots(settings.queue_slots(len(devices)))
app = make_celery(settings.broker_url)
app.conf.worker_pool = JobThreads
app.conf.broker_transport_options = {
    **app.conf.broker_transport_options,
    "queue_order_strategy": partial(QueuesWithRoom, slots),
}
TIDY_S = 3600.0
DUTY_OF = {"serve": "endpoints", "train": "sweeps", "eval": "suites"}
"""Duty that one worker of a queue has beside its jobs."""
heart_stopped = threading.Event()
HOST = os.environ.get("ROUNDHOUSE_WORKER_HOST") or socket.gethostname()


def worker_name(queue: str) -> str:
    """Return the display name of this machine's worker of a queue, such as `lab-1/train`."""
    return f"{HOST}/{queue}"


@app.task(name=TASK)
def work(queue: str) -> None:
    """Run jobs of a queue by priority, one after the other, until none is eligible."""
    try:
        while not JobThreads.stopping.is_set() and _run_next(queue):
            get_context().queue.publish(queue)  # a job may have become eligible for another worker while this one ran
    finally:
        slots.free(queue)


def _run_next(queue: str) -> bool:
    ctx = get_context()
    if _check_version(ctx) or _check_disk(ctx):
        return False
    owner = f"{worker_name(queue)}#{os.getpid()}"
    gang = choose_gang(ctx, queue, host=HOST, devices=devices)
    claim = claim_next(
        ctx,
        queue,
        owner=owner,
        host=HOST,
        devices=devices,
        engines=installed_engines(),
        before=gang.place if gang is not None else None,
    )
    if claim is None and gang is not None and gang.joins:
        from jobs.gang_member import NOBODY_S, work_in_gang  # imports most services, so not before there is a job

        if work_in_gang(
            ctx,
            gang,
            owner=owner,
            host=HOST,
            devices=devices,
            nice=settings.train_nice,
            stopping=JobThreads.stopping,
            save_s=settings.save_grace_s,
            queue=queue,
            waits_s=None if gang.keeps else NOBODY_S,
        ):
            return True
        claim = claim_next(ctx, queue, owner=owner, host=HOST, devices=devices, engines=installed_engines())
    if claim is None:
        return False
    from jobs.runner import execute

    execute(ctx, claim, nice=settings.train_nice, stopping=JobThreads.stopping, save_s=settings.save_grace_s)
    return True


def _check_version(ctx: Context) -> str:
    """Return why this worker takes no job, if a newer version has upgraded the database. Its queues are then left to
    other workers.
    """
    reason = explain_newer_database(ctx.db)
    slots.closed = bool(reason)
    return reason


def _check_disk(ctx: Context) -> str:
    """Return why this worker takes no job, if its disk is full: each would fail within a second, and with it the whole
    queue. Its queues are then left to other workers.
    """
    reason = explain_full_disk(ctx, host=HOST)
    slots.closed = slots.closed or bool(reason)
    return reason


@signals.task_received.connect
def _take_slot(request: Any, **_: Any) -> None:
    """Count a message when it is read: its thread starts later, and the next read must know the slot is taken."""
    slots.take(request.delivery_info["routing_key"])


@signals.worker_ready.connect
def _start_heartbeat(sender: Any, **_: Any) -> None:
    get_context().artifacts.start_sending()  # the context is created before other threads use it
    queues = sorted(sender.app.amqp.queues.consume_from)
    threading.Thread(target=_heartbeat_loop, args=(queues,), daemon=True, name="heart").start()
    trim_memory_beside()
    if "cpu" in queues:
        threading.Thread(
            target=run_monitor, args=(get_context(), JobThreads.stopping), daemon=True, name="monitor"
        ).start()
    if get_context().providers:
        threading.Thread(target=_submission_loop, daemon=True, name="submissions").start()
    if "serve" in queues:
        from backend.services.serving.upstreams import watch_upstreams  # imports an HTTP client

        threading.Thread(
            target=watch_upstreams, args=(get_context(), JobThreads.stopping), daemon=True, name="upstreams"
        ).start()


@signals.worker_shutdown.connect
def _end_heartbeat(sender: Any, **_: Any) -> None:
    heart_stopped.set()
    get_context().artifacts.finish_sending(within_s=10)
    try:
        say_goodbye(get_context(), _row_name(sorted(sender.app.amqp.queues.consume_from)))
    except SQLAlchemyError as error:  # a database that is away delays no shutdown
        log.warning("stopped without telling the database: %s", error)


def _heartbeat_loop(queues: list[str]) -> None:
    tidied = -TIDY_S
    beaten, patient_until = time.monotonic(), 0.0
    has_told = has_twin = False
    is_first = True
    while not heart_stopped.is_set():
        try:
            reason = _check_version(get_context())
            if reason and not has_told:
                log.error("This worker takes no more jobs. %s Update Roundhouse here and restart it.", reason)
            has_told = bool(reason)
            if _beat(queues, takes_no_jobs=reason or _check_disk(get_context()), is_first=is_first) and not has_twin:
                has_twin = True
                log.error(
                    "Another worker is named %s: set ROUNDHOUSE_WORKER_HOST to tell them apart.", _row_name(queues)
                )
            is_first = False
            if reason:
                continue
            now = time.monotonic()
            # the database was away: leases have lapsed whose holders live, and renew them now
            if now - beaten > settings.lease_s:
                patient_until = now + settings.lease_s
            beaten = now
            _recover(queues, takes_back=now >= patient_until)
            # a few per heartbeat
            if "cpu" in queues and time.monotonic() - tidied >= TIDY_S and not remove_job_folders(get_context()):
                remove_prepared_weights(get_context())
                remove_unused_tokens(get_context())
                tidied = time.monotonic()
        except Exception as error:  # the heartbeat must survive a locked database and a missing broker
            log.warning("heartbeat missed: %s", error)
        finally:
            heart_stopped.wait(settings.sweep_s)


def _submission_loop() -> None:
    """Order workers from compute providers, which may take long to answer, as one worker at a time."""
    from backend.services.jobs.submissions import tend_submissions

    ctx = get_context()
    while not heart_stopped.wait(settings.sweep_s):
        for provider in ctx.providers:
            try:
                if not _check_version(ctx) and take_duties(ctx, [provider.name], every_s=0.9 * settings.sweep_s):
                    tend_submissions(ctx, provider)
            except Exception as error:  # it must survive a locked database
                log.warning("submissions to %s failed: %s", provider.name, error)


def _beat(queues: list[str], *, takes_no_jobs: str = "", is_first: bool = False) -> bool:
    return beat(
        get_context(),
        name=_row_name(queues),
        host=HOST,
        pid=os.getpid(),
        slots={queue: slots.limits.get(queue, 1) for queue in queues},
        devices=list(devices),
        gauges=read_machine_gauges().model_copy(
            update={"engines": installed_engines(), "takes_no_jobs": takes_no_jobs}
        ),
        is_first=is_first,
    )


def _row_name(queues: list[str]) -> str:
    """Return the name of the row of heartbeats, which that of the same worker after a restart replaces."""
    return f"{HOST}/{'+'.join(queues)}"


def _recover(queues: list[str], *, takes_back: bool = True) -> None:
    """Do what one worker of these queues does at a time, beside its heartbeat. A part that fails is logged and keeps no
    other from its turn.
    """
    ctx = get_context()
    duties = [duty for queue, duty in DUTY_OF.items() if queue in queues] + ["recovery"] * takes_back
    for duty in take_duties(ctx, duties, every_s=0.9 * settings.sweep_s):
        for name, act in _acts(duty):
            _attempt(name, act, ctx)
    if "train" in queues and ctx.artifacts.store is not None:  # holds lie beside the copies of each machine
        _attempt("holds of checkpoints", release_scored, ctx)


def _acts(duty: str) -> tuple[tuple[str, Callable[[Context], object]], ...]:
    """Return what a duty is made of, by the names that its failures are logged under."""
    if duty == "endpoints":
        return ("rollouts", advance_endpoints), ("autoscaling", autoscale_endpoints), ("canaries", _judge_canaries)
    if duty == "sweeps":
        return (("sweeps", _advance_sweeps),)
    if duty == "suites":
        return ("suites", _launch_suites), ("holds of checkpoints", release_scored)
    return (("taking back jobs", _take_back),)


def _attempt(name: str, part: Callable[..., object], *values: object) -> None:
    try:
        part(*values)
    except Exception as error:
        log.warning("%s failed: %s", name, error)


def _take_back(ctx: Context) -> None:
    report = recover_jobs(ctx)
    if report.requeued or report.failed or report.cancelled or report.woken:
        log.warning("recovered: %s", report)


def _judge_canaries(ctx: Context) -> None:
    if has_canary(ctx):
        from backend.services.serving.canaries import judge_canaries  # imports most services

        judge_canaries(ctx)


def _advance_sweeps(ctx: Context) -> None:
    if list_open_sweeps(ctx):
        from backend.services.training.sweeps import advance_sweeps  # imports most services

        advance_sweeps(ctx)


def _launch_suites(ctx: Context) -> None:
    if open_results := list_open_results(ctx):
        from backend.services.evaluation.suites import launch_members  # imports most services

        for result_id in open_results:
            _attempt(f"suite result {result_id}", launch_members, ctx, result_id)
