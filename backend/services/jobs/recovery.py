"""Recovery from lost workers, lost messages and lost brokers. Idempotent, so every worker runs it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from backend.db.tables import Job, Replica, Slot
from backend.domain.jobs.records import JobFailure
from backend.domain.jobs.states import QUEUES, Status, restart_delay_s
from backend.services.context import Context
from backend.services.jobs.claims import eligible
from backend.services.jobs.device_uses import close_uses


@dataclass
class Recovery:
    """Ids of the jobs changed, and the wake-ups sent by queue."""

    requeued: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    woken: dict[str, int] = field(default_factory=dict)


def recover_jobs(ctx: Context) -> Recovery:
    """Queue jobs whose lease lapsed again, cancel jobs whose dependency failed, and send missing wake-ups."""
    report = Recovery()
    now = ctx.now()
    with ctx.db.read() as session:  # usually nothing to do: avoid the write lock
        lapsed = session.scalar(
            select(func.count())
            .select_from(Job)
            .where(Job.status.in_([Status.RUNNING, Status.CANCELLING]), Job.lease_until < now)
        )
        orphans = session.scalar(
            select(func.count()).select_from(Job).where(Job.status == Status.QUEUED, Job.depends_on_id.is_not(None))
        )
    if lapsed or orphans:
        with ctx.db.write() as session:
            _take_back_lapsed(session, ctx, report)
            _cancel_orphans(session, ctx, report)
            session.execute(delete(Slot).where(Slot.lease_until < now))
    _send_missing(ctx, report)
    return report


def _take_back_lapsed(session: Session, ctx: Context, report: Recovery) -> None:
    now = ctx.now()
    query = (
        select(Job)
        .where(Job.status.in_([Status.RUNNING, Status.CANCELLING]), Job.lease_until < now)
        .with_for_update(skip_locked=True)
    )
    for job in session.scalars(query):
        close_uses(session, job.id, at=job.lease_until or now)
        job.owner, job.lease_until, job.device = None, None, None
        if job.status == Status.CANCELLING:
            job.status, job.finished_at = Status.CANCELLED, now
            report.cancelled.append(job.id)
            continue
        job.lost += 1
        replica = session.scalar(select(Replica).where(Replica.job_id == job.id))
        if replica is not None:
            replica.status, replica.url = "starting", None
        if job.restarts_forever or job.lost < job.max_attempts:
            job.status = Status.QUEUED
            job.not_before = now + timedelta(seconds=restart_delay_s(job.lost)) if job.restarts_forever else None
            report.requeued.append(job.id)
        else:
            job.status, job.finished_at = Status.FAILED, now
            job.error = JobFailure(
                cause=f"The worker was lost {job.lost} times while this job ran.",
                remedy="Check the worker's machine (out of memory is the usual reason), then resume.",
            )
            report.failed.append(job.id)


def _cancel_orphans(session: Session, ctx: Context, report: Recovery) -> None:
    ended = [Status.FAILED, Status.CANCELLED]
    before = select(Job.id).where(Job.status.in_(ended))
    for job in session.scalars(select(Job).where(Job.status == Status.QUEUED, Job.depends_on_id.in_(before))):
        job.status, job.finished_at = Status.CANCELLED, ctx.now()
        job.error = JobFailure(
            cause="The job that this one depends on did not finish.",
            remedy="Retry that job, then start this one again.",
        )
        report.cancelled.append(job.id)


def _send_missing(ctx: Context, report: Recovery) -> None:
    """Send wake-ups until each queue has one per eligible job, as after a broker restart that lost its messages."""
    with ctx.db.read() as session:
        counts: dict[str, int] = dict(
            session.execute(select(Job.queue, func.count()).where(eligible(ctx.now())).group_by(Job.queue)).all()
        )
    for queue in QUEUES:
        waiting = ctx.queue.waiting(queue) if counts.get(queue) else 0
        if waiting is None:
            return
        missing = counts.get(queue, 0) - waiting
        for _ in range(max(0, missing)):
            if ctx.queue.publish(queue):
                report.woken[queue] = report.woken.get(queue, 0) + 1
