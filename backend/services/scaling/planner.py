"""Plan runs from this installation's measured speeds, prices and finished runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import median
from typing import Any

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Job, Measurement, MetricName, MetricPoint, Run, Tokenizer
from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.cost import count_flops
from backend.domain.estimates.throughput import Speed
from backend.domain.jobs.states import Status
from backend.domain.scaling.fit import LawFit, fit_law
from backend.domain.scaling.laws import PUBLISHED, ScalingLaw, ScalingPoint, effective_tokens, get_law
from backend.domain.scaling.plan import DEFAULT_VOCABULARY, PlanConfig, ScalingPlan, make_plan
from backend.domain.scaling.shapes import count_all
from backend.domain.training.objectives import Objective
from backend.errors import Conflict, InvalidInput
from backend.services.context import Context
from backend.services.data.datasets import resolve_version
from backend.services.data.sizes import read_train_tokens
from backend.services.data.views import VersionView, version_labels
from backend.services.serving.prices import current_prices
from backend.services.tokenizers.tokenizers import TokenizerView, get_tokenizer

OWN = "own"
RECENT_MEASUREMENTS, RECENT_RUNS = 200, 24
MIN_TOKENS_PER_PASS = 256
"""A pass of fewer tokens waits for Python and kernels to start, and says nothing of the speed of a plan's passes."""


@dataclass(frozen=True)
class PlanInputs:
    """Dataset version and tokenizer of a plan, if named, its vocabulary size, and its unique tokens, as a data report
    `counted` them or about.
    """

    version: VersionView | None
    tokenizer: TokenizerView | None
    vocab_size: int
    unique_tokens: int | None
    counted: bool = False


def plan_run(ctx: Context, config: PlanConfig) -> ScalingPlan:
    """Plan a run from measured speeds, the price of a device-hour, the dataset and finished runs.

    Raises NotFound for an unknown dataset or tokenizer, InvalidInput for an invalid plan, each naming field and cure.
    """
    inputs = read_plan_inputs(ctx, dataset=config.dataset, tokenizer=config.tokenizer, vocab_size=config.vocab_size)
    return make_plan(
        config,
        law=choose_law(ctx, config.law, inputs=inputs, context=config.context),
        vocab_size=inputs.vocab_size,
        speeds=choose_speeds(ctx, config.device),
        price_usd=current_prices(ctx).default,
        unique_tokens=inputs.unique_tokens,
        tokens_counted=inputs.counted,
    )


def pool_of_plan(ctx: Context, config: PlanConfig) -> RunPool | None:
    """Return the finished runs comparable with a plan; None without any, or without a dataset and a tokenizer."""
    if config.dataset is None or config.tokenizer is None:
        return None
    inputs = read_plan_inputs(ctx, dataset=config.dataset, tokenizer=config.tokenizer)
    if inputs.version is None or inputs.tokenizer is None:
        return None
    return find_pool(ctx, version_id=inputs.version.id, tokenizer_id=inputs.tokenizer.id, context=config.context)


def read_plan_inputs(
    ctx: Context, *, dataset: str | None, tokenizer: str | None, vocab_size: int | None = None
) -> PlanInputs:
    """Resolve the names of a plan or study. Raises NotFound, or InvalidInput for a dataset that is not text."""
    version = resolve_version(ctx, dataset, ready=False) if dataset else None
    if version is not None and version.kind not in Objective.PRETRAIN.facts.datasets:
        raise InvalidInput(
            f"“{version.dataset}” is of kind {version.kind}, and pretraining reads text.",
            remedy="Choose a dataset of text.",
            field="dataset",
        )
    made = get_tokenizer(ctx, tokenizer) if tokenizer else None
    if made is not None and made.vocab_size is None:
        raise Conflict(
            f"The tokenizer “{made.name}” is not ready.",
            remedy="Wait until it is trained, or choose another.",
            field="tokenizer",
        )
    vocabulary = (made.vocab_size if made else None) or vocab_size or DEFAULT_VOCABULARY
    if version is None or made is None:
        return PlanInputs(version, made, vocabulary, None)
    tokens = read_train_tokens(ctx, version, made)
    if tokens is None:
        return PlanInputs(version, made, vocabulary, None)
    return PlanInputs(version, made, vocabulary, tokens.number, counted=tokens.counted)


def choose_law(ctx: Context, key: str, *, inputs: PlanInputs, context: int) -> ScalingLaw:
    """Return a published law, or the fit to finished runs with the same dataset, tokenizer and context."""
    if key != OWN:
        return get_law(key)
    if inputs.version is None or inputs.tokenizer is None:
        raise InvalidInput(
            "A law of your own runs needs a dataset and a tokenizer.",
            remedy="Choose both, or a published law.",
            field="law",
        )
    pool = find_pool(ctx, version_id=inputs.version.id, tokenizer_id=inputs.tokenizer.id, context=context)
    points = worth([run.point for run in pool.runs], inputs.unique_tokens) if pool else ()
    try:
        return fit_own_law(points).law
    except InvalidInput as error:
        raise InvalidInput(
            f"There is no law of your own for {inputs.version.label}, {inputs.tokenizer.name} and a context of"
            f" {context} yet: {error.message[:1].lower()}{error.message[1:]}",
            remedy="Run a scaling study, or choose a published law.",
            field="law",
        ) from error


@lru_cache(maxsize=64)
def fit_own_law(points: tuple[ScalingPoint, ...]) -> LawFit:
    """Fit a law to runs; the same runs are fitted once."""
    return fit_law(points, title="Law of your runs")


def list_laws() -> list[ScalingLaw]:
    """Return the published laws."""
    return list(PUBLISHED.values())


def list_speeds(ctx: Context) -> list[Speed]:
    """Return the training speeds of this installation, newest first: probes and runs measured, then other runs.

    Those with fewer than MIN_TOKENS_PER_PASS are left out.
    """
    with ctx.db.read() as session:
        measured = session.scalars(
            select(Measurement).order_by(Measurement.created_at.desc()).limit(RECENT_MEASUREMENTS)
        ).all()
        speeds = [speed for row in measured if (speed := _speed_of_measurement(row)) is not None]
        known = {row.run_id for row in measured if row.run_id}
        query = (
            select(Run, Job)
            .join(Job, Job.id == Run.job_id)
            .where(Run.objective == "pretrain", Job.status == Status.FINISHED)
            .order_by(Job.finished_at.desc())
            .limit(RECENT_RUNS)
        )
        for run, job in session.execute(query):
            if run.id not in known and (speed := _speed_of_run(session, run, job)) is not None:
                speeds.append(speed)
    return speeds


def choose_speeds(ctx: Context, device: str | None) -> list[Speed]:
    """Return the speeds of a device, by default the last measured one. Raises InvalidInput without a measurement."""
    by_device: dict[str, list[Speed]] = defaultdict(list)
    for speed in list_speeds(ctx):
        by_device[speed.device].append(speed)
    if device is None:
        return next(iter(by_device.values()), [])
    if device not in by_device:
        known = ", ".join(f"“{name}”" for name in by_device) or "none so far"
        raise InvalidInput(f"Nothing was measured on “{device}”.", remedy=f"Measured: {known}.", field="device")
    return by_device[device]


def list_measured_devices(ctx: Context) -> list[str]:
    """Return the devices with a measured speed, the last measured first."""
    return list(dict.fromkeys(speed.device for speed in list_speeds(ctx)))


def _speed_of_measurement(row: Measurement) -> Speed | None:
    """Return the speed of a pretraining measurement; None for others, whose tokens are counted differently, for short
    passes and for unreadable settings.
    """
    setting: dict[str, Any] = row.setting or {}
    if int(setting.get("micro_batch") or 1) * int(setting.get("context") or 0) < MIN_TOKENS_PER_PASS:
        return None
    if setting.get("lora_rank") or setting.get("objective", "pretrain") != "pretrain" or not row.tokens_per_s > 0:
        return None
    per_token = _flops_per_token(setting.get("architecture"), setting.get("context"))
    if per_token is None:
        return None
    return Speed(
        per_token,
        row.tokens_per_s * per_token,
        row.device,
        f"{row.tokens_per_s:,.0f} tokens/s, measured by a {row.origin}",
    )


def _speed_of_run(session: Session, run: Run, job: Job) -> Speed | None:
    if run.config is None or run.config.micro_batch * run.config.context < MIN_TOKENS_PER_PASS:
        return None
    per_token = _flops_per_token((job.payload or {}).get("architecture"), run.config.context)
    query = (
        select(MetricPoint.value)
        .join(MetricName, MetricName.id == MetricPoint.name_id)
        .where(MetricPoint.run_id == run.id, MetricName.name == "tok_per_sec")
        .order_by(MetricPoint.step.desc())
        .limit(500)
    )
    rates = list(session.scalars(query))
    if per_token is None or not rates:
        return None
    host = (job.owner or "").split("/")[0]
    device = f"{'GPU' if job.device and job.device != 'cpu' else 'CPU'}{f' of {host}' if host else ''}"
    rate = median(rates)
    return Speed(per_token, rate * per_token, device, f"{rate:,.0f} tokens/s in the run “{run.name}”")


def _flops_per_token(architecture: Any, context: Any) -> int | None:
    if not isinstance(architecture, dict):
        return None
    try:
        shape = ArchitectureConfig.model_validate(architecture)
        return count_flops(shape, context=int(context or shape.context)).training
    except (ValidationError, ValueError, TypeError):
        return None


MAX_RUNS = 500


@dataclass(frozen=True)
class PoolRun:
    """A finished run as a point: `point.tokens` counts repeated tokens in full."""

    name: str
    group_id: str | None
    vocab_size: int
    point: ScalingPoint


@dataclass(frozen=True)
class RunPool:
    """Runs with comparable losses. `left_out` are the reasons why other finished runs on the data are excluded."""

    version_id: str
    dataset: str
    tokenizer_id: str
    tokenizer: str
    context: int
    runs: tuple[PoolRun, ...]
    left_out: tuple[str, ...]

    @property
    def label(self) -> str:
        """Dataset version, tokenizer and context of the pool."""
        return f"{self.dataset} · {self.tokenizer} · context {self.context:,}"


def worth(points: Sequence[ScalingPoint], unique_tokens: int | None) -> tuple[ScalingPoint, ...]:
    """Return the points to fit a law to: repeated tokens count as their effective number."""
    if not unique_tokens:
        return tuple(points)
    return tuple(replace(point, tokens=effective_tokens(point.tokens, unique_tokens)) for point in points)


def list_pools(ctx: Context) -> list[RunPool]:
    """Return the pools, the one with most runs first.

    A run counts if it was pretrained from scratch, finished all its steps with a decaying schedule, measured val_loss
    at its end and uses all parameters for every token. Archived runs are left out.
    """
    query = (
        select(Run, Job)
        .join(Job, Job.id == Run.job_id)
        .where(Run.objective == "pretrain", Job.status == Status.FINISHED, Run.archived_at.is_(None))
        .order_by(Run.created_at.desc())
        .limit(MAX_RUNS)
    )
    pools: dict[tuple[str, str, int], list[PoolRun]] = defaultdict(list)
    left_out: dict[tuple[str, str, int], list[str]] = defaultdict(list)
    with ctx.db.read() as session:
        for run, job in session.execute(query):
            if not run.dataset_version_id or not run.tokenizer_id:
                continue
            key = (run.dataset_version_id, run.tokenizer_id, run.config.context if run.config else 0)
            point = read_run(run, job)
            if isinstance(point, str):
                left_out[key].append(f"{run.name}: {point}")
            else:
                pools[key].append(point)
        versions = version_labels(session, {key[0] for key in pools})
        tokenizers = dict(
            session.execute(select(Tokenizer.id, Tokenizer.name).where(Tokenizer.id.in_({k[1] for k in pools}))).all()
        )
    found_pools = [
        RunPool(
            key[0],
            versions.get(key[0], "a deleted dataset"),
            key[1],
            tokenizers.get(key[1], "a deleted tokenizer"),
            key[2],
            tuple(runs),
            tuple(left_out[key]),
        )
        for key, runs in pools.items()
    ]
    return sorted(found_pools, key=lambda pool: -len(pool.runs))


def find_pool(ctx: Context, *, version_id: str, tokenizer_id: str, context: int) -> RunPool | None:
    """Return the pool of a dataset version, a tokenizer and a context, or None."""
    key = (version_id, tokenizer_id, context)
    return next((pool for pool in list_pools(ctx) if (pool.version_id, pool.tokenizer_id, pool.context) == key), None)


def read_run(run: Run, job: Job) -> PoolRun | str:
    """Return a finished run as a point, or the reason it is excluded."""
    config, summary = run.config, run.summary
    if config is None:
        return "it was imported"
    steps = config.max_steps
    loss, final = summary.last.get("val_loss"), summary.result.get("final_step", run.last_step)
    if config.schedule == "constant":
        return "its learning rate did not decay"
    if final != steps:
        return f"it did {final:,} of {steps:,} steps"
    if not isinstance(loss, int | float):
        return "it has no val_loss"
    try:
        shape = ArchitectureConfig.model_validate((job.payload or {}).get("architecture"))
    except ValidationError:
        return "its architecture can't be read"
    if shape.num_experts is not None:
        return "it has experts, which the law does not cover"
    tokens = steps * config.micro_batch * config.grad_accum_steps * config.context
    flops = tokens * count_flops(shape, context=config.context).training
    point = ScalingPoint.of(count_all(shape), tokens, float(loss), flops=flops, label=run.name)
    return PoolRun(run.name, run.group_id, shape.vocab_size, point)


def points_of_group(pools: Sequence[RunPool], group_id: str) -> list[ScalingPoint]:
    """Return the points of one study."""
    return [run.point for pool in pools for run in pool.runs if run.group_id == group_id]
