"""A person's GPU-hours: counted from the devices of their jobs, and required before a run is queued."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import mean

from sqlalchemy import func, or_, select

from backend.db.tables import DeviceUse, Job, Measurement, Run, User
from backend.domain.jobs.gpu_hours import WEEK, GpuHours, PersonLimits, week_start
from backend.domain.jobs.states import TERMINAL, JobKind, Status
from backend.domain.training.config import RunConfig
from backend.domain.training.config_fields import values_affecting
from backend.domain.training.traits import Effect
from backend.errors import RoundhouseError
from backend.services.context import Context, Person
from backend.services.estimates.measurements import predict_time
from backend.services.jobs.devices import choose_device, training_workers
from backend.services.jobs.workers import WorkerView
from backend.services.people.accounts import AccountView
from backend.services.training.parts import RunParts

MAX_RUNS = 50
"""Most runs that wait or train whose time is expected."""
MAX_PREDICTED = 12
"""Most different runs of these whose time is predicted."""
MAX_KNOWN = 512
_known = dict[tuple[object, ...], float]()
"""Hours of a step by installation, measurements, device and settings: a page asks again at each redraw."""


def gpu_hours_of(ctx: Context, person: Person) -> GpuHours | None:
    """Return what a person's jobs have taken this week and what their runs are expected to take; None without an
    account or a limit.
    """
    hours = _used_by(ctx, person)
    return hours and replace(hours, expected=_expected_hours(ctx, str(person.id)))


def used_gpu_hours(ctx: Context, accounts: Iterable[AccountView]) -> dict[str, GpuHours]:
    """Return what the jobs of accounts have taken this week, of those that have a limit; nothing is predicted."""
    return _used(ctx, {account.id: account.limits for account in accounts})


def require_gpu_hours(
    ctx: Context,
    config: RunConfig,
    *,
    person: Person,
    steps: int,
    parts: RunParts | None = None,
    placement: str | None = None,
) -> None:
    """Raise Conflict if that many steps of a run on GPUs would exceed its person's limit of this week. Steps of unknown
    time, and none, are refused only once nothing is left.
    """
    hours = _used_by(ctx, person)
    if hours is None or not _takes_gpus(config, placement, parts.workers if parts else training_workers(ctx)):
        return
    hours.require(None)  # before anything is predicted: a sweep that waits asks every few seconds
    step_hours = _step_hours(ctx, config, parts) if steps else None
    expected = _expected_hours(ctx, str(person.id))
    replace(hours, expected=expected).require(None if step_hours is None else step_hours * steps)


def _takes_gpus(config: RunConfig, placement: str | None, workers: Sequence[WorkerView]) -> bool:
    """Return whether a run would train on GPUs: of a worker that lives, or of a compute provider."""
    if config.device == "cpu" or placement is not None:
        return config.device != "cpu"
    return config.device == "gpu" or choose_device(config, workers).kind == "gpu"


def _expected_hours(ctx: Context, user_id: str) -> float:
    """Return the GPU-hours that the steps left of a person's runs are expected to take; of more different runs than
    are predicted, each further one the mean.
    """
    query = (
        select(Run.config, Run.last_step, Job.placement, Job.device)
        .join(Job, Run.job_id == Job.id)
        .where(Job.created_by == user_id, Job.status.not_in(TERMINAL), Job.device_request != "cpu")
        # one that trains without a GPU trains on the CPU
        .where(or_(Job.status.not_in((Status.RUNNING, Status.CANCELLING)), Job.device.is_not(None)))
        .order_by(Job.created_at)
        .limit(MAX_RUNS)
    )
    with ctx.db.read() as session:
        rows = session.execute(query).all()
        measured = select(func.count(), func.max(Measurement.created_at))
        state = (ctx.db.url, *session.execute(measured).one()) if rows else ()
    workers = training_workers(ctx) if rows else ()
    hours, num_predicted, unpredicted = list[float](), 0, 0
    for config, last_step, placement, device in rows:
        if config is None or (device is None and not _takes_gpus(config, placement, workers)):
            continue
        # the runs of a sweep differ in name and seed, and mostly take the same time
        kind = json.dumps(values_affecting(config, Effect.MEMORY, Effect.STEP_TIME), sort_keys=True)
        key = (*state, repr(choose_device(config, workers)), kind)
        step_hours = _known.get(key)
        if step_hours is None:
            if num_predicted == MAX_PREDICTED:
                unpredicted += 1
                continue
            num_predicted += 1
            if len(_known) >= MAX_KNOWN:
                _known.clear()
            step_hours = _known[key] = _step_hours(ctx, config) or 0.0
        hours.append(step_hours * max(0, config.max_steps - last_step))
    return sum(hours) + (mean(hours) * unpredicted if hours else 0.0)


def _step_hours(ctx: Context, config: RunConfig, parts: RunParts | None = None) -> float | None:
    """Return the GPU-hours that a step of a run is expected to take; None if its time is unknown."""
    try:
        time = predict_time(ctx, config, parts=parts)
    except RoundhouseError:  # one of its parts was deleted
        return None
    return time.seconds / 3600 * config.devices.count / config.max_steps if time else None


def _used_by(ctx: Context, person: Person) -> GpuHours | None:
    if person.id is None:
        return None
    with ctx.db.read() as session:
        user = session.get(User, person.id)
    return _used(ctx, {user.id: user.limits}).get(user.id) if user is not None else None


def _used(ctx: Context, limits: Mapping[str, PersonLimits]) -> dict[str, GpuHours]:
    """Return the used hours of accounts by id, of those with a limit."""
    now, since = ctx.now(), week_start(ctx.now())
    own = {user_id: limit.gpu_hours_per_week for user_id, limit in limits.items()}
    limit_of = {user_id: ctx.policy.gpu_hours_per_week if limit is None else limit for user_id, limit in own.items()}
    hours = {user_id: 0.0 for user_id, limit in limit_of.items() if limit is not None}
    if not hours:
        return {}
    query = (
        select(User.id, DeviceUse)
        .select_from(DeviceUse)
        .join(Job, Job.id == DeviceUse.job_id)
        .join(User, User.id == Job.created_by)
        .where(User.id.in_(hours), Job.kind != JobKind.REPLICA, DeviceUse.kind == "gpu")
        .where(or_(DeviceUse.ended_at.is_(None), DeviceUse.ended_at > since))
    )
    with ctx.db.read() as session:
        for user_id, use in session.execute(query):
            seconds = ((use.ended_at or now) - max(use.started_at, since)).total_seconds()
            hours[user_id] += max(0.0, seconds) * use.num_devices / 3600
    return {
        user_id: GpuHours(hours[user_id], limit, since + WEEK)
        for user_id, limit in limit_of.items()
        if limit is not None
    }
