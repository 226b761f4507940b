"""Recovery from lost workers, lost messages and lost brokers: a duty of one worker at a time, and idempotent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, exists, func, or_, select
from sqlalchemy.orm import Session, aliased

from backend.db.tables import GangMember, Job, Slot, Worker
from backend.domain.jobs.records import JobFailure
from backend.domain.jobs.states import QUEUES, Status, restart_delay_s
from backend.services.context import Context
from backend.services.jobs.claims import Claim, eligible, lapsed_claim
from backend.services.jobs.device_uses import close_uses
from backend.services.jobs.jobs import add_log_line
from backend.services.jobs.workers import FORGOTTEN

Tidier = Callable[[Session, Context, Claim[Any]], None]
MAX_WAKE_UPS = 1000
"""Wake-ups that a queue's workers find at most. More jobs than that are reached as workers take some."""


@dataclass
class Recovery:
    """Ids of the jobs changed, and the wake-ups sent by queue."""

    requeued: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    woken: dict[str, int] = field(default_factory=dict)


def recover_jobs(ctx: Context) -> Recovery:
    """Queue jobs whose lease lapsed again, cancel jobs whose dependency failed, forget workers that have been silent
    for ten minutes, and send missing wake-ups.
    """
    report = Recovery()
    now = ctx.now()
    with ctx.db.read() as session:  # usually nothing to do: avoid the write lock
        is_due = session.scalar(
            select(
                or_(
                    exists().where(*_lapsed(now)),
                    exists().where(*_orphaned()),
                    exists().where(Slot.lease_until < now),
                    exists().where(*_abandoned(now)),
                    exists().where(Worker.heartbeat_at < now - FORGOTTEN),
                )
            )
        )
    if is_due:
        from backend.services.job_events import record_bad_end  # imports most services, so not under the lock

        with ctx.db.write() as session:
            _take_back_lapsed(session, ctx, report, tidy=record_bad_end)
            _cancel_orphans(session, ctx, report)
            session.execute(delete(Slot).where(Slot.lease_until < now))
            session.execute(delete(GangMember).where(*_abandoned(now)))
            session.execute(delete(Worker).where(Worker.heartbeat_at < now - FORGOTTEN))
    _send_missing(ctx, report)
    return report


def _lapsed(now: datetime) -> tuple[ColumnElement[bool], ...]:
    return Job.status.in_([Status.RUNNING, Status.CANCELLING]), Job.lease_until < now


def _abandoned(now: datetime) -> tuple[ColumnElement[bool], ...]:
    """Return the condition that a machine's part in a gang has lapsed, and that its attempt has ended or never began:
    while the attempt runs, its first machine has to see that another one is lost.
    """
    runs = select(Job.id).where(
        Job.id == GangMember.job_id,
        Job.attempt == GangMember.attempt,
        Job.status.in_([Status.RUNNING, Status.CANCELLING]),
    )
    return GangMember.lease_until < now, ~runs.exists()


def _orphaned() -> tuple[ColumnElement[bool], ...]:
    before = aliased(Job)
    ended = select(before.id).where(
        before.id == Job.depends_on_id, before.status.in_([Status.FAILED, Status.CANCELLED])
    )
    return Job.status == Status.QUEUED, Job.depends_on_id.is_not(None), ended.exists()


def _take_back_lapsed(session: Session, ctx: Context, report: Recovery, *, tidy: Tidier) -> None:
    now = ctx.now()
    query = select(Job).where(*_lapsed(now)).with_for_update(skip_locked=True)
    for job in session.scalars(query):
        close_uses(session, job.id, at=job.lease_until or now)
        tidy(session, ctx, lapsed_claim(job))
        lost = f"The worker {job.owner} was lost: it was silent for {ctx.policy.lease_s:g} s."
        add_log_line(session, ctx, job.id, lost, attempt=job.attempt)
        job.owner, job.lease_until, job.device = None, None, None
        if job.status == Status.CANCELLING:
            job.status, job.finished_at = Status.CANCELLED, now
            report.cancelled.append(job.id)
            continue
        job.lost += 1
        if job.restarts_forever or job.lost < job.max_attempts:
            job.status = Status.QUEUED
            delay_s = restart_delay_s(job.lost) if job.restarts_forever else 0.0
            job.not_before = now + timedelta(seconds=delay_s)
            report.requeued.append(job.id)
        else:
            job.status, job.finished_at = Status.FAILED, now
            job.error = JobFailure(
                cause=f"The worker was lost {job.lost} times while this job ran.",
                remedy="Check the worker's machine (out of memory is the usual reason), then resume.",
            )
            report.failed.append(job.id)


def _cancel_orphans(session: Session, ctx: Context, report: Recovery) -> None:
    for job in session.scalars(select(Job).where(*_orphaned())):
        job.status, job.finished_at = Status.CANCELLED, ctx.now()
        job.error = JobFailure(
            cause="The job that this one depends on did not finish.",
            remedy="Retry that job, then start this one again.",
        )
        report.cancelled.append(job.id)


def _send_missing(ctx: Context, report: Recovery) -> None:
    """Send wake-ups until each queue has one per eligible job, up to `MAX_WAKE_UPS`, as after a broker restart that
    lost its messages.
    """
    with ctx.db.read() as session:
        counts = {queue: _count_eligible(session, ctx, queue) for queue in QUEUES}
    for queue, count in counts.items():
        waiting = ctx.queue.waiting(queue) if count else 0
        if waiting is None:
            return
        for _ in range(max(0, count - waiting)):
            if ctx.queue.publish(queue):
                report.woken[queue] = report.woken.get(queue, 0) + 1


def _count_eligible(session: Session, ctx: Context, queue: str) -> int:
    here = (eligible(ctx.now()), Job.queue == queue, Job.placement.is_(None))
    first = select(Job.id).where(*here).limit(MAX_WAKE_UPS)
    return session.scalar(select(func.count()).select_from(first.subquery())) or 0
