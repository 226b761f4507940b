"""A person's GPU-hours: counted from the devices of their jobs, and required before a run is queued."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

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
    with ctx.db.read() as session:
        hours = _used_by(session, ctx, person.id)
        rows = _open_runs(session, person.id) if hours is not None else ()
    return hours and replace(hours, expected=_expected_hours(ctx, rows))


def used_gpu_hours(ctx: Context, accounts: Iterable[AccountView]) -> dict[str, GpuHours]:
    """Return what the jobs of accounts have taken this week, of those that have a limit; nothing is predicted."""
    with ctx.db.read() as session:
        return _used(session, ctx, {account.id: account.limits for account in accounts})


@dataclass(frozen=True)
class NeededHours:
    """The GPU-hours that a run of a person with a limit needs; None where its time is unknown."""

    user_id: str
    hours: float | None


def require_gpu_hours(
    ctx: Context,
    config: RunConfig,
    *,
    person: Person,
    steps: int,
    parts: RunParts | None = None,
    placement: str | None = None,
) -> NeededHours | None:
    """Raise Conflict if that many steps of a run on GPUs would exceed its person's limit of this week. Steps of unknown
    time, and none, are refused only once nothing is left. Return what to give to `lock_gpu_hours` in the transaction
    that queues the run; None if nothing limits it.
    """
    with ctx.db.read() as session:
        hours = _used_by(session, ctx, person.id)
    if hours is None or not _takes_gpus(config, placement, parts.workers if parts else training_workers(ctx)):
        return None
    hours.require(None)  # before anything is predicted: a sweep that waits asks every few seconds
    step_hours = _step_hours(ctx, config, parts) if steps else None
    needed = NeededHours(str(person.id), None if step_hours is None else step_hours * steps)
    with ctx.db.read() as session:
        rows = _open_runs(session, person.id)
    replace(hours, expected=_expected_hours(ctx, rows)).require(needed.hours)
    return needed


def lock_gpu_hours(session: Session, ctx: Context, needed: NeededHours | None) -> None:
    """Require the hours once more, before any write of the transaction that queues a run: until it is over no other run
    of the person is queued, of which two could both fit alone. What was predicted before is known by now.
    """
    if needed is None:
        return
    account = select(User.id).where(User.id == needed.user_id)
    session.execute(account.with_for_update(key_share=True))  # rows that refer to the account need not wait
    hours = _used_by(session, ctx, needed.user_id)
    if hours is not None:
        replace(hours, expected=_expected_hours(ctx, _open_runs(session, needed.user_id))).require(needed.hours)


def _takes_gpus(config: RunConfig, placement: str | None, workers: Sequence[WorkerView]) -> bool:
    """Return whether a run would train on GPUs: of a worker that lives, or of a compute provider."""
    if config.device == "cpu" or placement is not None:
        return config.device != "cpu"
    return config.device == "gpu" or choose_device(config, workers).kind == "gpu"


def _open_runs(session: Session, user_id: str | None) -> Sequence[Any]:
    """Return a person's runs that wait or train, but for those on the CPU."""
    query = (
        select(Run.config, Run.last_step, Job.placement, Job.device)
        .join(Job, Run.job_id == Job.id)
        .where(Job.created_by == user_id, Job.status.not_in(TERMINAL), Job.device_request != "cpu")
        # a run that trains without a device is on the CPU
        .where(or_(Job.status.not_in((Status.RUNNING, Status.CANCELLING)), Job.device.is_not(None)))
        .order_by(Job.created_at)
        .limit(MAX_RUNS)
    )
    return session.execute(query).all()


def _expected_hours(ctx: Context, rows: Sequence[Any]) -> float:
    """Return the GPU-hours that the steps left of runs are expected to take; of more different runs than are predicted,
    each further one the mean.
    """
    if not rows:
        return 0.0
    with ctx.db.read() as session:
        measured = select(func.count(), func.max(Measurement.created_at))
        state = (ctx.db.url, *session.execute(measured).one())
    workers = training_workers(ctx)
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


def _used_by(session: Session, ctx: Context, user_id: str | None) -> GpuHours | None:
    user = session.get(User, user_id) if user_id is not None else None
    return _used(session, ctx, {user.id: user.limits}).get(user.id) if user is not None else None


def _used(session: Session, ctx: Context, limits: Mapping[str, PersonLimits]) -> dict[str, GpuHours]:
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
    for user_id, use in session.execute(query):
        seconds = ((use.ended_at or now) - max(use.started_at, since)).total_seconds()
        hours[user_id] += max(0.0, seconds) * use.num_devices / 3600
    return {
        user_id: GpuHours(hours[user_id], limit, since + WEEK)
        for user_id, limit in limit_of.items()
        if limit is not None
    }
