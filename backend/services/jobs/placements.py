"""Placements: the partitions that a job can be sent to, and how an order for its worker stands."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import func, select

from backend.db.tables import GangMember, Job, Provider, Submission
from backend.domain.jobs.placement import PROVIDERS, Partition, Placement, SubmissionState, parse_placement
from backend.domain.jobs.states import Status
from backend.domain.training.config import RunConfig
from backend.domain.wording import plural
from backend.errors import InvalidInput, RoundhouseError, Unavailable
from backend.services.context import Context

SILENT = timedelta(seconds=60)


@dataclass(frozen=True)
class PlacementChoice:
    """A partition that a job can be sent to."""

    placement: Placement
    partition: Partition

    @property
    def detail(self) -> str:
        """Return its nodes and GPUs as text."""
        return self.partition.detail


@dataclass(frozen=True)
class ProviderState:
    """A provider's partitions, or why a job can't be sent there."""

    name: str
    choices: tuple[PlacementChoice, ...]
    problem: str
    down: tuple[str, ...] = ()
    """Partitions that take no job now."""

    @property
    def title(self) -> str:
        """Return its name on pages."""
        return PROVIDERS.get(self.name, self.name)


@dataclass(frozen=True)
class Waiting:
    """A placed job that waits, as a sentence, and whether that needs an operator."""

    sentence: str
    is_stuck: bool = False


def list_providers(ctx: Context) -> tuple[ProviderState, ...]:
    """Return the providers that this installation has been set up for."""
    with ctx.db.read() as session:
        return tuple(_state(ctx, row) for row in session.scalars(select(Provider).order_by(Provider.name)))


def _state(ctx: Context, row: Provider) -> ProviderState:
    if row.problem:
        return ProviderState(row.name, (), row.problem)
    if ctx.now() - row.checked_at > SILENT:
        title = PROVIDERS.get(row.name, row.name)
        problem = f"Not checked for over a minute: the worker with the settings of {title} is not running. Start it."
        return ProviderState(row.name, (), problem)
    choices = (
        PlacementChoice(Placement(row.name, partition.name), partition)
        for partition in row.partitions
        if partition.is_up
    )
    down = tuple(partition.name for partition in row.partitions if not partition.is_up)
    return ProviderState(row.name, tuple(choices), "", down)


def check_placement(ctx: Context, text: str, config: RunConfig) -> str:
    """Return a placement that a run can be sent to. Raises InvalidInput for a run that is too large for its partition,
    and what `check_partition` raises.
    """
    choice = _choose(ctx, parse_placement(text), field="placement")
    if problem := _why_too_small(choice, config):
        raise InvalidInput(
            f"{choice.placement.label} {problem}.",
            remedy="Choose fewer machines (devices.nodes) or devices, or another place to run.",
            field="devices.count",
        )
    return str(choice.placement)


def describe_nodes(ctx: Context, text: str, config: RunConfig) -> str:
    """Say which nodes of a placement a run would take, or why it can't."""
    try:
        choice = _choose(ctx, parse_placement(text), field="placement")
    except RoundhouseError as error:
        return error.message
    label, machines, each = choice.placement.label, config.devices.nodes, config.devices.per_node
    if problem := _why_too_small(choice, config):
        return f"{label} {problem}."
    has_gpus = config.device == "gpu" or (config.device == "auto" and choice.partition.num_gpus > 0)
    share = plural(each, "GPU" if has_gpus else "CPU core")
    if machines == 1:
        return f"One node of {label}, with {share}."
    return (
        f"{machines} nodes of {label}, with {share} each; {choice.placement.title} starts them together or not at all."
    )


def _why_too_small(choice: PlacementChoice, config: RunConfig) -> str:
    gpus = 0 if config.device == "cpu" else config.devices.per_node
    return choice.partition.why_too_small(machines=config.devices.nodes, gpus=gpus)


def check_partition(ctx: Context, placement: Placement) -> str:
    """Return a placement that jobs can be sent to. Raises InvalidInput for an unknown provider or partition, and
    Unavailable if the provider does not answer or the partition is down.
    """
    return str(_choose(ctx, placement, field="executor").placement)


def _choose(ctx: Context, placement: Placement, *, field: str) -> PlacementChoice:
    provider = next((one for one in list_providers(ctx) if one.name == placement.provider), None)
    if provider is None:
        raise InvalidInput(
            f"{placement.title} is not set up here.",
            remedy=f"docs/{placement.provider}.md says how.",
            field=field,
        )
    if provider.problem:
        raise Unavailable(f"{placement.title} can't take a job: {provider.problem}")
    if placement.partition in provider.down:
        raise Unavailable(f"{placement.label} is down (drained, stopped or in maintenance) and takes no job now.")
    choices = {choice.placement.partition: choice for choice in provider.choices}
    if placement.partition not in choices:
        raise InvalidInput(
            f"{placement.title} offers no partition {placement.partition!r} here.",
            remedy=f"Choose one of {', '.join(choices) or 'none: all are down'}.",
            field=field,
        )
    return choices[placement.partition]


def describe_waiting(ctx: Context, job_id: str) -> Waiting | None:
    """Return why a placed job waits, with the provider's own reason and its id of the order; None for any other job."""
    with ctx.db.read() as session:
        job = session.get(Job, job_id)
        if job is None or job.placement is None or job.status != Status.QUEUED:
            return None
        placement, num_machines = parse_placement(job.placement), job.num_machines
        waits = (GangMember.job_id == job_id, GangMember.attempt.is_(None), GangMember.lease_until > ctx.now())
        num_there = session.scalar(select(func.count()).select_from(GangMember).where(*waits)) or 0
        newest = select(Submission).where(Submission.job_id == job_id).order_by(Submission.number.desc()).limit(1)
        row = session.scalar(newest)
        provider = session.get(Provider, placement.provider)
    state = _state(ctx, provider) if provider is not None else None
    if state is None or state.problem:
        return Waiting(f"{placement.label}. {state.problem if state else 'No worker submits to it.'}", is_stuck=True)
    title = placement.title
    if row is None or row.external_id is None or row.state == SubmissionState.ENDED:
        if placement.partition in state.down:
            return Waiting(f"{placement.label} is down (drained, stopped or in maintenance). Submitted when it is up.")
        if placement not in [choice.placement for choice in state.choices]:
            return Waiting(f"{placement.label} is not offered here any more; nothing is submitted.", is_stuck=True)
    if row is None or row.external_id is None:
        if row is not None and row.reason:
            return Waiting(f"{placement.label}. Not submitted yet: {row.reason.rstrip('.')}. Tried again shortly.")
        return Waiting(f"{placement.label}. Submitted within seconds.")
    order = f"{placement.label}, job {row.external_id}"
    if row.missed_at is not None and row.state != SubmissionState.ENDED:
        return Waiting(f"{order} is no longer listed by {title}; resubmitting shortly.")
    if row.state == SubmissionState.WAITING:
        return Waiting(f"{order}. {title} says: {row.reason or row.word.capitalize()}.")
    if row.state == SubmissionState.RUNNING:
        if num_machines > 1:
            return Waiting(f"{order} has started: {num_there} of its {num_machines} workers are there.")
        return Waiting(f"{order} has started; its worker takes the run within seconds.")
    end = f"{row.word} {row.reason}".strip()
    return Waiting(f"{order} has ended ({end}); another is submitted within seconds.")


def describe_order(ctx: Context, job_id: str) -> str:
    """Return a placed job's placement with the provider's id of its newest order; empty for any other job."""
    with ctx.db.read() as session:
        job = session.get(Job, job_id)
        if job is None or job.placement is None:
            return ""
        newest = select(Submission.external_id).where(Submission.job_id == job_id).order_by(Submission.number.desc())
        external_id = session.scalar(newest.limit(1))
    return parse_placement(job.placement).label + (f", job {external_id}" if external_id else "")
