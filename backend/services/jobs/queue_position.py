"""Queue positions: the jobs that run or wait before a job."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session

from backend.db.tables import Job
from backend.domain.jobs.states import ACTIVE, Status
from backend.services.context import Context
from backend.services.jobs.jobs import JobView, view


def queue_ahead(ctx: Context, job_id: str) -> list[JobView]:
    """Return the jobs that run or wait before a queued job in its queue, in order. Empty when it isn't queued."""
    with ctx.db.read() as session:
        job = session.get(Job, job_id)
        if job is None or job.status != Status.QUEUED:
            return []
        rows = session.scalars(
            select(Job)
            .where(
                Job.queue == job.queue,
                or_(
                    Job.status.in_([Status.RUNNING, Status.CANCELLING]),
                    and_(
                        Job.status == Status.QUEUED,
                        or_(
                            Job.priority < job.priority,
                            and_(
                                Job.priority == job.priority,
                                or_(
                                    Job.created_at < job.created_at,
                                    and_(Job.created_at == job.created_at, Job.id < job.id),
                                ),
                            ),
                        ),
                    ),
                ),
            )
            .order_by(Job.status.desc(), Job.priority, Job.created_at)
        )
        return [view(row) for row in rows]


def ahead_of_new(ctx: Context, queue: str, *, priority: int) -> list[JobView]:
    """Return the jobs running or waiting ahead of a new job of this priority, in order."""
    before = or_(
        Job.status.in_([Status.RUNNING, Status.CANCELLING]),
        and_(Job.status == Status.QUEUED, Job.priority <= priority),
    )
    with ctx.db.read() as session:
        query = select(Job).where(Job.queue == queue, before)
        return [view(row) for row in session.scalars(query.order_by(Job.status.desc(), Job.priority, Job.created_at))]


def queue_positions(session: Session, queued: Sequence[Job]) -> dict[str, int]:
    """Return how many jobs run or wait before each queued job, with one query per queue."""
    if not queued:
        return {}
    rows = session.execute(
        select(Job.id, Job.queue, Job.status, Job.priority, Job.created_at).where(
            Job.status.in_(ACTIVE), Job.queue.in_({j.queue for j in queued})
        )
    ).all()
    order = sorted(rows, key=lambda row: (row[2] == Status.QUEUED, row[3], row[4], row[0]))
    ahead: dict[str, int] = {}
    positions: dict[str, int] = {}
    for job_id, queue, *_ in order:
        positions[job_id] = ahead.get(queue, 0)
        ahead[queue] = positions[job_id] + 1
    return positions
