"""A person's GPU-hours: counted from the devices of their jobs, and required before a run is queued."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from backend.db.tables import DeviceUse, Job, Run, User
from backend.domain.jobs.gpu_hours import WEEK, GpuHours, week_start
from backend.domain.jobs.states import TERMINAL, JobKind
from backend.domain.training.config import RunConfig
from backend.errors import RoundhouseError
from backend.services.context import Context, Person
from backend.services.estimates.measurements import predict
from backend.services.jobs.devices import choose_device, training_workers
from backend.services.training.parts import RunParts

MAX_PREDICTED = 50
"""Runs that wait or train whose time is predicted."""


def gpu_hours_of(ctx: Context, person: Person) -> GpuHours | None:
    """Return what a person's jobs have taken this week; None without an account or a limit."""
    since = week_start(ctx.now())
    with ctx.db.read() as session:
        user = session.get(User, person.id) if person.id else None
        own = user.limits.gpu_hours_per_week if user is not None else None
        limit = ctx.policy.gpu_hours_per_week if own is None else own
        if user is None or limit is None:
            return None
        used = _used_hours(session, ctx, user.id, since)
        open_runs = session.execute(
            select(Job.id, Run.config)
            .join(Run, Run.job_id == Job.id)
            .where(Job.created_by == user.id, Job.status.not_in(TERMINAL), Job.device_request != "cpu")
            .order_by(Job.created_at)
            .limit(MAX_PREDICTED)
        ).all()
    left = [max(0.0, (_needed(ctx, config) or 0.0) - used.get(job_id, 0.0)) for job_id, config in open_runs if config]
    return GpuHours(sum(used.values()), sum(left), limit, since + WEEK)


def require_gpu_hours(
    ctx: Context, config: RunConfig, *, person: Person, parts: RunParts | None = None, placement: str | None = None
) -> None:
    """Raise Conflict if a run on GPUs would exceed its person's limit of this week."""
    hours = gpu_hours_of(ctx, person)
    if hours is not None and takes_gpus(ctx, config, placement):
        hours.require(_needed(ctx, config, parts))


def takes_gpus(ctx: Context, config: RunConfig, placement: str | None) -> bool:
    """Return whether a run would train on GPUs: of a worker that lives, or of a compute provider."""
    if config.device == "cpu" or placement is not None:
        return config.device != "cpu"
    return config.device == "gpu" or choose_device(config, training_workers(ctx)).kind == "gpu"


def _needed(ctx: Context, config: RunConfig, parts: RunParts | None = None) -> float | None:
    """Return the GPU-hours that a run is expected to take; None if its time is unknown."""
    try:
        prediction = predict(ctx, config, parts=parts)
    except RoundhouseError:  # one of its parts was deleted
        return None
    return prediction.time.seconds / 3600 * config.devices.count if prediction.time else None


def _used_hours(session: Session, ctx: Context, user_id: str, since: datetime) -> dict[str, float]:
    """Return the GPU-hours since a moment, by job."""
    now, hours = ctx.now(), dict[str, float]()
    uses = session.scalars(
        select(DeviceUse)
        .join(Job, Job.id == DeviceUse.job_id)
        .where(Job.created_by == user_id, Job.kind != JobKind.REPLICA, DeviceUse.kind == "gpu")
        .where(or_(DeviceUse.ended_at.is_(None), DeviceUse.ended_at > since))
    )
    for use in uses:
        seconds = ((use.ended_at or now) - max(use.started_at, since)).total_seconds()
        hours[use.job_id] = hours.get(use.job_id, 0.0) + max(0.0, seconds) * use.num_devices / 3600
    return hours
