"""Queue positions: the jobs that run or wait before a job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from typing import Any

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from backend.db.tables import Job
from backend.domain.jobs.progress import Progress
from backend.domain.jobs.states import JobKind, Status
from backend.services.context import Context
from backend.services.jobs.jobs import JobView, view

MAX_LISTED = 200
MAX_COUNTED, MAX_READ = 8, 2000


@dataclass(frozen=True)
class JobsAhead:
    """Jobs that run or wait before a job: those that run, then the first `MAX_LISTED` that wait, in order. `count` is
    the number of all.
    """

    first: tuple[JobView, ...] = ()
    count: int = 0

    @property
    def progress(self) -> list[Progress | None]:
        """The progress of each; None while a run prepares, whose steps have no rate yet, and one for those that are not
        listed.
        """
        return [progress_to_end(job) for job in self.first] + [None] * (self.count > len(self.first))


def progress_to_end(job: JobView) -> Progress | None:
    """Return a job's progress if it leads to the job's end: that of a run's preparation, in rows, does not."""
    is_preparing = job.kind == JobKind.TRAIN and job.progress is not None and job.progress.unit != "step"
    return None if is_preparing else job.progress


def count_waiting(session: Session) -> dict[str, int]:
    """Return how many jobs wait in each queue for a worker of this installation."""
    query = select(Job.queue, func.count()).where(Job.status == Status.QUEUED, Job.placement.is_(None))
    return dict(session.execute(query.group_by(Job.queue)).all())


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
    """Return how many jobs run or wait before each queued job that any worker may take.

    Each waiting job is counted once, by the index: between one of the list and the next. Of a list of many, as on pages
    that show a whole queue, the jobs are read in order instead, unless they stand behind thousands.
    """
    positions: dict[str, int] = {}
    waiting_here = [job for job in queued if job.placement is None]  # others wait for no worker
    for queue in {job.queue for job in waiting_here}:
        in_order = sorted((job for job in waiting_here if job.queue == queue), key=_place)
        here = (Job.queue == queue, Job.placement.is_(None))
        order = tuple_(Job.priority, Job.created_at, Job.id)
        counts = [_count(*here, Job.status.in_([Status.RUNNING, Status.CANCELLING]))]
        if len(in_order) > MAX_COUNTED:
            upto = (*here, Job.status == Status.QUEUED, order <= tuple_(*_place(in_order[-1])))
            first = select(Job.id).where(*upto).order_by(Job.priority, Job.created_at, Job.id).limit(MAX_READ)
            ids = session.scalars(first).all()
            if len(ids) < MAX_READ:
                running = session.execute(select(*counts)).scalar_one()
                place_of = {job_id: running + number for number, job_id in enumerate(ids)}
                positions |= {job.id: place_of[job.id] for job in in_order if job.id in place_of}
                continue
        for before, job in zip([None, *in_order], in_order, strict=False):
            after = [order >= tuple_(*_place(before))] if before is not None else []
            counts.append(_count(*here, Job.status == Status.QUEUED, *after, order < tuple_(*_place(job))))
        running, *waiting = session.execute(select(*counts)).one()
        ahead = accumulate([running + waiting[0], *waiting[1:]])
        positions |= zip([job.id for job in in_order], ahead, strict=True)
    return positions


def _place(job: Job) -> tuple[int, datetime, str]:
    return job.priority, job.created_at, job.id


def _count(*conditions: Any) -> Any:
    return select(func.count()).select_from(Job).where(*conditions).scalar_subquery()
