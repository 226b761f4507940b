"""Forecast of a run before its launch: tokens, epochs, time, memory, disk, cost, loss, queue position, warnings; and
of a sweep: number of runs, parallel runs, time, memory, disk, cost.
"""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from sqlalchemy import select

from backend.db.tables import Run
from backend.domain.architectures.families import FAMILIES
from backend.domain.data.reports.report import DataReport
from backend.domain.estimates.prediction import Prediction
from backend.domain.jobs.gangs import GangPlan
from backend.domain.jobs.progress import Progress, expected_wait_s
from backend.domain.jobs.states import Status
from backend.domain.scaling.laws import BELIEVABLE, DEFAULT_LAW, effective_tokens
from backend.domain.scaling.shapes import count_all, count_without_embeddings
from backend.domain.statistics.estimates import Estimate
from backend.domain.training.config import RunConfig
from backend.domain.training.config_fields import traits_of, values_affecting
from backend.domain.training.launch_warnings import LaunchFacts, LaunchWarning, warnings_of
from backend.domain.training.objectives import chats
from backend.domain.training.sweep import SweepConfig, build_run, list_points
from backend.domain.training.traits import Effect
from backend.domain.wording import format_epochs, percent
from backend.errors import RoundhouseError
from backend.services.context import Context
from backend.services.data.sizes import TrainTokens, read_train_tokens
from backend.services.estimates.measurements import predict, predict_time
from backend.services.jobs.gangs import plan_config
from backend.services.jobs.queue_position import JobsAhead, ahead_of_new, progress_to_end
from backend.services.jobs.workers import WorkerView
from backend.services.scaling.planner import OWN, PlanInputs, choose_law
from backend.services.serving.prices import current_prices
from backend.services.training.parts import RunParts, checkpoint_bytes, resolve_parts

MAX_PREDICTED = 4


@dataclass(frozen=True)
class QueuePosition:
    """Jobs before a new run. `wait_s` is None if unknown; `num_slots` is 0 if no worker serves the queue."""

    ahead: int
    num_slots: int
    wait_s: float | None


@dataclass(frozen=True)
class ExpectedLoss:
    """The val_loss that a scaling law predicts for a pretraining run. `is_own`: the law is fitted to finished runs on
    the same data.
    """

    estimate: Estimate
    law: str
    is_own: bool


@dataclass(frozen=True)
class Forecast:
    """Expected course and needs of a run.

    `parts` are the config's resolved parts. `steps` are fewer than max_steps where max_epochs ends the run first.
    `tokens_at_most`: tokens are an upper bound, as completions that the run samples may be short.
    `epochs_at_least`: epochs are a lower bound, as the number of packed rows per sequence is unknown; `epochs_at_most`
    is then about the upper one, None if no row could be read. `epochs_estimated`: the tokens of the data are estimated,
    not counted by a data report. `truncated` is the share of train rows that the `context` truncates, without a data
    report a lower bound by a sample (`truncated_at_least`); None where it is unknown, and of text, which fills windows.
    `cost_usd` is None without a price or a time.
    `loss_missing` is the reason why a pretraining run has no `loss`. `gang` says where a run over several machines
    would start.
    """

    parts: RunParts
    steps: int
    tokens: int
    tokens_at_most: bool
    epochs: float | None
    epochs_at_least: bool
    epochs_at_most: float | None
    epochs_estimated: bool
    prediction: Prediction
    context: int
    truncated: float | None
    truncated_at_least: bool
    checkpoint_bytes: int
    num_checkpoints: int
    free_bytes: int
    price_usd: float | None
    cost_usd: float | None
    loss: ExpectedLoss | None
    loss_missing: str
    seconds: float | None
    queue: QueuePosition
    gang: GangPlan | None
    warnings: tuple[LaunchWarning, ...]

    @property
    def disk_bytes(self) -> int:
        """Bytes of the checkpoints kept at once."""
        return self.checkpoint_bytes * self.num_checkpoints


def describe_epochs(expected: Forecast) -> str:
    """Return a forecast's epochs: `2 epochs`; where rows share sequences and none were counted, between what and what.

    Empty if they are unknown.
    """
    if not expected.epochs:
        return ""
    least = format_epochs(expected.epochs)
    stated = f"about {least}" if expected.epochs_estimated else least
    if not expected.epochs_at_least:
        return stated
    if expected.epochs_at_most is None:
        return f"at least {stated}"
    most = format_epochs(expected.epochs_at_most)
    return f"about {least}" if most == least else f"between {stated} and about {most}, as packing joins rows"


def describe_truncated(expected: Forecast) -> str:
    """Return the share of a run's train rows that its context truncates, as a phrase; empty where none is known to be
    truncated.
    """
    if not expected.truncated:
        return ""
    bound = "At least " if expected.truncated_at_least else ""
    share = f"{bound}{percent(expected.truncated)}" if expected.truncated >= 0.005 else "Some"
    return f"{share} of the train rows are truncated to {expected.context:,} tokens"


def forecast(ctx: Context, config: RunConfig, *, parts: RunParts | None = None) -> Forecast:
    """Predict a run without launching it. `parts` are the config's parts, if the caller has resolved them.

    Raises NotFound, InvalidInput or Conflict for a config whose parts are missing or incompatible.
    """
    parts = parts or resolve_parts(ctx, config)
    prediction = predict(ctx, config, parts=parts)
    train_tokens = read_train_tokens(ctx, parts.version, parts.tokenizer) if parts.tokenizer else None
    unique = train_tokens.number if train_tokens else None
    epochs, at_least = _epochs(config, parts, unique=unique, packed=prediction.epoch_sequences)
    most = _most_epochs(config, parts) if at_least else None
    steps = config.max_steps
    if config.max_epochs and epochs and epochs > config.max_epochs:
        steps, epochs = max(1, round(steps * config.max_epochs / epochs)), config.max_epochs
    seconds = prediction.time.seconds * steps / config.max_steps if prediction.time else None
    price = current_prices(ctx).default
    checkpoint_size, num_checkpoints = checkpoint_bytes(config, parts)
    loss, loss_missing = _believable_loss(ctx, config, parts, tokens=steps * config.tokens_per_step, unique=unique)
    facts = _facts(config, parts, prediction, epochs=epochs, at_least=at_least, seconds=seconds)
    return Forecast(
        parts=parts,
        steps=steps,
        tokens=steps * config.tokens_per_step,
        tokens_at_most=config.objective.samples,
        epochs=epochs,
        epochs_at_least=at_least,
        epochs_at_most=min(most, config.max_epochs or most) if most and epochs and most > epochs else None,
        epochs_estimated=config.objective.pretrains and not _counts_tokens(parts, train_tokens),
        prediction=prediction,
        context=config.context,
        truncated=None if config.objective.pretrains else facts.cut_rows,
        truncated_at_least=facts.cut_rows_at_least,
        checkpoint_bytes=checkpoint_size,
        num_checkpoints=num_checkpoints,
        free_bytes=ctx.artifacts.free_bytes(),
        price_usd=price,
        cost_usd=seconds / 3600 * price * config.devices.count if price and seconds is not None else None,
        loss=loss,
        loss_missing=loss_missing,
        seconds=seconds,
        queue=queue_position(ctx, config, parts.workers),
        gang=plan_config(ctx, config) if config.devices.nodes > 1 else None,
        warnings=warnings_of(config, facts),
    )


def _facts(
    config: RunConfig,
    parts: RunParts,
    prediction: Prediction,
    *,
    epochs: float | None,
    at_least: bool,
    seconds: float | None,
) -> LaunchFacts:
    report, shape = _report(parts), parts.shape
    return LaunchFacts(
        body=count_without_embeddings(shape) if shape else parts.base.parameters if parts.base else None,
        epochs=epochs,
        epochs_at_least=at_least,
        seconds=seconds,
        train_rows=parts.version.train_rows if parts.version.is_ready else None,
        val_rows=parts.version.val_rows if parts.version.is_ready else None,
        packs=_can_pack(parts),
        padding=1.0 - report.packing.padded if report and report.packing.padded else None,
        cut_rows=_share_truncated(config, parts),
        cut_rows_at_least=report is None,
        silent_rows=_share_without_targets(config, parts),
        fits=prediction.fits,
        device=prediction.device,
        base_chats=_chats(parts),
        dataset_kind=parts.version.kind,
        max_context=(parts.base.facts.context if parts.base else None) or (shape.context if shape else None),
    )


def _chats(parts: RunParts) -> bool | None:
    """Return whether the base has learned to chat: by its run's objective, else by its chat template; None without a
    base, and for one of which neither is known.
    """
    if parts.base is None:
        return None
    if parts.base.objective is not None:
        return chats(parts.base.objective)
    facts = parts.base.facts
    return facts.has_chat_template if "has_chat_template" in facts.model_fields_set else None


def queue_position(ctx: Context, config: RunConfig, workers: Sequence[WorkerView]) -> QueuePosition:
    """Return a new run's position in its queue, and its wait if the rates of the jobs ahead are known."""
    slots = count_slots(config, workers)
    ahead = ahead_of_new(ctx, config.queue, priority=config.priority)
    wait = 0.0 if slots and ahead.count < slots else expected_wait_s(_durations(ctx, ahead), slots=slots)
    return QueuePosition(ahead.count, slots, wait)


def count_slots(config: RunConfig, workers: Sequence[WorkerView]) -> int:
    """Return how many runs of this config the workers train at once."""
    able = [worker for worker in workers if worker.devices or config.device != "gpu"]
    return sum(max(1, len(worker.devices) or worker.concurrency) for worker in able)


def _durations(ctx: Context, ahead: JobsAhead) -> list[Progress | None]:
    """Return the progress of jobs; of queued runs their expected duration, unless there are too many, or too many
    different ones, to predict.
    """
    if ahead.count > len(ahead.first):
        return [None]
    waiting = [job.id for job in ahead.first if job.status is Status.QUEUED]
    with ctx.db.read() as session:
        query = select(Run.job_id, Run.config).where(Run.job_id.in_(waiting))
        stored: dict[str | None, RunConfig | None] = dict(session.execute(query).all())
    configs = {str(job_id): config for job_id, config in stored.items() if config is not None}
    kinds = {
        job_id: json.dumps(values_affecting(config, Effect.STEP_TIME, Effect.LENGTH))
        for job_id, config in configs.items()
    }
    if len(set(kinds.values())) > MAX_PREDICTED:
        return [None]
    representatives = {kind: configs[job_id] for job_id, kind in kinds.items()}
    times = {kind: _expected(ctx, config) for kind, config in representatives.items()}
    return [times.get(kinds.get(job.id, "")) if job.id in waiting else progress_to_end(job) for job in ahead.first]


def _expected(ctx: Context, config: RunConfig) -> Progress | None:
    try:
        time = predict_time(ctx, config)
    except RoundhouseError:  # one of its parts was deleted
        return None
    return Progress(0, 1, "run", None, time.seconds, "") if time else None


def _report(parts: RunParts) -> DataReport | None:
    return parts.report.report if parts.report else None


def _packs(config: RunConfig, parts: RunParts) -> bool:
    """Return whether rows share sequences."""
    return config.objective.packs and config.packing and _can_pack(parts)


def _can_pack(parts: RunParts) -> bool:
    """Return whether the base keeps packed rows apart; assumed where its family is not known."""
    return parts.shape is None or FAMILIES[parts.shape.family].packs


def _share_without_targets(config: RunConfig, parts: RunParts) -> float | None:
    """Return the share of train rows without a trained token: by a report, or a lower bound by a sample."""
    report, sample = _report(parts), parts.rows
    if report is not None:
        return report.train.zero_label_rows / max(1, report.train.rows)
    return sample.num_without_targets(config.context) / len(sample.prompt_tokens) if sample else None


def _share_truncated(config: RunConfig, parts: RunParts) -> float | None:
    """Return the share of train rows longer than the context: by a report, or a lower bound by a sample."""
    if (report := _report(parts)) is not None:
        return report.train.truncated_share
    return parts.rows.share_longer(config.context) if parts.rows and config.objective.packs else None


def _epochs(config: RunConfig, parts: RunParts, *, unique: int | None, packed: int | None) -> tuple[float | None, bool]:
    """Return (epochs of the train split, whether they are a lower bound). `packed`: sequences that a run counted."""
    report = _report(parts)
    if config.objective.pretrains:
        known = report.train.tokens if report and report.train.tokens else unique
        return (config.tokens_per_step * config.max_steps / known, False) if known else (None, False)
    sequences = _sequences(config)
    if config.objective.samples:
        sequences //= config.grpo.group_size
    packs = _packs(config, parts)
    counted = packed or (report.packing.packed_sequences if report else 0)
    if packs and counted:
        return sequences / counted, False
    skipped = _share_without_targets(config, parts) or 0.0
    rows = parts.version.train_rows * (1.0 - skipped)
    return (sequences / rows, packs or bool(skipped and not report)) if rows else (None, False)


def _counts_tokens(parts: RunParts, train_tokens: TrainTokens | None) -> bool:
    """Return whether a data report counted the tokens of the train split."""
    report = _report(parts)
    return bool(report and report.train.tokens) or (train_tokens is not None and train_tokens.counted)


def _most_epochs(config: RunConfig, parts: RunParts) -> float | None:
    """Return about the most epochs that a run makes whose rows share sequences; None if no row could be read."""
    fewest = parts.rows.fewest_sequences(config.context) if parts.rows and _packs(config, parts) else 0.0
    return _sequences(config) / fewest if fewest else None


def _sequences(config: RunConfig) -> int:
    return config.tokens_per_step // config.context * config.max_steps


def _believable_loss(
    ctx: Context, config: RunConfig, parts: RunParts, *, tokens: int, unique: int | None
) -> tuple[ExpectedLoss | None, str]:
    """Return (the loss predicted by a law, the reason why there is none): those near chance level are rejected."""
    loss = _expected_loss(ctx, config, parts, tokens=tokens, unique=unique)
    if loss is None or (
        parts.shape is not None and loss.estimate.value < BELIEVABLE * math.log(parts.shape.vocab_size)
    ):
        return loss, ""
    return None, "the published laws don't extrapolate to a run this small"


def _expected_loss(
    ctx: Context, config: RunConfig, parts: RunParts, *, tokens: int, unique: int | None
) -> ExpectedLoss | None:
    """Return a law's loss for pretraining from scratch: by a law of own runs, else the planner's default."""
    shape = parts.shape
    if not config.objective.pretrains or parts.tokenizer is None or shape is None or shape.num_experts is not None:
        return None
    worth = effective_tokens(tokens, unique) if unique else float(tokens)
    inputs = PlanInputs(parts.version, parts.tokenizer, shape.vocab_size, unique)
    for key in (OWN, DEFAULT_LAW):
        try:
            law = choose_law(ctx, key, inputs=inputs, context=config.context)
            return ExpectedLoss(law.loss_estimate(count_all(shape), worth), law.title, key == OWN)
        except RoundhouseError:
            continue
    return None


MAX_FORECASTS = 12
"""Maximum number of different runs to forecast; of more, an even sample is used."""


@dataclass(frozen=True)
class SweepForecast:
    """Expected needs of a sweep.

    `seconds` is the time from the first start to the last end with `at_once` runs at a time, as many as asked for while
    no worker serves them; `run_seconds` the shortest and the longest run. Both are None unless the time of every run is
    known. `memory_bytes` is the largest peak of a run. `disk_bytes` are those of the checkpoints of all runs.
    `is_sampled`: not every run was forecast. `problem` is the reason why some run can't be launched.
    """

    num_runs: int
    at_once: int
    seconds: float | None
    run_seconds: tuple[float, float] | None
    memory_bytes: int | None
    disk_bytes: int
    cost_usd: float | None
    is_sampled: bool
    problem: str = ""


def forecast_sweep(ctx: Context, config: SweepConfig, *, base: Forecast) -> SweepForecast:
    """Predict a sweep from forecasts of its different runs. `base` is the forecast of the run that all are variations
    of.

    Of a bayesian sweep, which draws values as it goes, the corners of its ranges are forecast. Parts are resolved again
    only for runs that name other rows, context or devices.
    """
    points = list_points(config)
    runs = [build_run(config, point, number) for number, point in enumerate(points)]
    kinds = [_kind(run) for run in runs]
    different = dict(zip(kinds, runs, strict=True))
    picked = _spread(list(different), MAX_FORECASTS)
    forecasts: dict[str, Forecast] = {}
    problem = ""
    for kind in picked:
        try:
            forecasts[kind] = forecast(ctx, different[kind], parts=_shared_parts(config, base))
        except RoundhouseError as error:
            problem = problem or str(error)
    known = [forecasts[kind] for kind in kinds if kind in forecasts] or [base]
    at_once = min(config.parallel, config.num_runs, base.queue.num_slots or config.parallel)
    times = [each.seconds for each in known if each.seconds is not None]
    is_timed = len(times) == len(known)
    return SweepForecast(
        num_runs=config.num_runs,
        at_once=at_once,
        seconds=makespan(_fill(times, config.num_runs), slots=at_once) if is_timed else None,
        run_seconds=(min(times), max(times)) if is_timed else None,
        memory_bytes=max(
            (each.prediction.memory.num_bytes for each in known if each.prediction.memory.num_bytes is not None),
            default=None,
        ),
        disk_bytes=round(mean(each.disk_bytes for each in known) * config.num_runs),
        cost_usd=_cost(known, config.num_runs),
        is_sampled=len(known) < config.num_runs or config.method == "bayesian",
        problem=problem,
    )


def makespan(durations: Sequence[float], *, slots: int) -> float:
    """Return the time until the last of several jobs ends, each started in turn as a slot becomes free.

    Example:
        >>> makespan([3.0, 1.0, 1.0, 1.0], slots=2)
        3.0
    """
    free = [0.0] * slots
    for duration in durations:
        heapq.heapreplace(free, free[0] + duration)
    return max(free)


def _kind(run: RunConfig) -> str:
    return json.dumps(values_affecting(run, Effect.MEMORY, Effect.STEP_TIME, Effect.LENGTH), sort_keys=True)


def _shared_parts(config: SweepConfig, base: Forecast) -> RunParts | None:
    """Return the base run's parts, unless a varied field changes them or their checks."""
    changing = {Effect.MEMORY, Effect.STEP_TIME}
    return None if any(traits_of(path).affects & changing for path in config.vary) else base.parts


def _spread(items: Sequence[str], most: int) -> list[str]:
    """Return at most `count` items, evenly spread."""
    if len(items) <= most:
        return list(items)
    return [items[index * (len(items) - 1) // (most - 1)] for index in range(most)]


def _fill(times: Sequence[float], count: int) -> list[float]:
    """Repeat the known times cyclically to the number of runs."""
    return [times[index % len(times)] for index in range(count)]


def _cost(known: Sequence[Forecast], num_runs: int) -> float | None:
    costs = [each.cost_usd for each in known if each.cost_usd is not None]
    return mean(costs) * num_runs if len(costs) == len(known) else None
