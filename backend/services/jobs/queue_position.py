"""Queue positions: the jobs that run or wait before a job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from backend.db.tables import Job
from backend.domain.jobs.progress import Progress
from backend.domain.jobs.states import ACTIVE, Status
from backend.services.context import Context
from backend.services.jobs.jobs import JobView, view

MAX_LISTED = 200


@dataclass(frozen=True)
class JobsAhead:
    """Jobs that run or wait before a job: those that run, then the first `MAX_LISTED` that wait, in order. `count` is
    the number of all.
    """

    first: tuple[JobView, ...] = ()
    count: int = 0

    @property
    def progress(self) -> list[Progress | None]:
        """The progress of each; one None for those that are not listed."""
        return [job.progress for job in self.first] + [None] * (self.count > len(self.first))


def queue_ahead(ctx: Context, job_id: str) -> JobsAhead:
    """Return the jobs that run or wait before a queued job in its queue. Empty when it isn't queued."""
    with ctx.db.read() as session:
        job = session.get(Job, job_id)
        if job is None or job.status != Status.QUEUED or job.placement:
            return JobsAhead()
        before = tuple_(Job.priority, Job.created_at, Job.id) < tuple_(job.priority, job.created_at, job.id)
        return _ahead(session, job.queue, before)


def ahead_of_new(ctx: Context, queue: str, *, priority: int) -> JobsAhead:
    """Return the jobs that run or wait before a new job of this priority."""
    with ctx.db.read() as session:
        return _ahead(session, queue, Job.priority <= priority)


def _ahead(session: Session, queue: str, before: Any) -> JobsAhead:
    in_order = (Job.priority, Job.created_at, Job.id)
    here = (Job.queue == queue, Job.placement.is_(None))
    runs = select(Job).where(*here, Job.status.in_([Status.RUNNING, Status.CANCELLING]))
    waits = (*here, Job.status == Status.QUEUED, before)
    running = session.scalars(runs.order_by(Job.status.desc(), *in_order)).all()
    waiting = session.scalars(select(Job).where(*waits).order_by(*in_order).limit(MAX_LISTED)).all()
    num_waiting = len(waiting)
    if num_waiting == MAX_LISTED:
        num_waiting = session.scalar(select(func.count()).select_from(Job).where(*waits)) or 0
    return JobsAhead(tuple(view(row) for row in (*running, *waiting)), len(running) + num_waiting)


def queue_positions(session: Session, queued: Sequence[Job]) -> dict[str, int]:
    """Return how many jobs run or wait before each queued job."""
    if not queued:
        return {}
    in_order = (Job.status == Status.QUEUED, Job.priority, Job.created_at, Job.id)
    number = func.row_number().over(partition_by=Job.queue, order_by=in_order).label("number")
    active = Job.status.in_(ACTIVE), Job.queue.in_({job.queue for job in queued}), Job.placement.is_(None)
    ranked = select(Job.id, number).where(*active).subquery()
    rows = session.execute(select(ranked).where(ranked.c.id.in_([job.id for job in queued])))
    return {job_id: position - 1 for job_id, position in rows}
