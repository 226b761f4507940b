"""What will happen if a run is launched: tokens, epochs, time, memory, disk, cost, loss to expect, place in the queue, warnings."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from backend.db.tables import Run
from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.families import FAMILIES
from backend.domain.data.reports.report import DataReport
from backend.domain.estimates.prediction import Prediction
from backend.domain.jobs.progress import Progress, expected_wait_s, read_progress
from backend.domain.jobs.states import Status
from backend.domain.scaling.laws import BELIEVABLE, DEFAULT_LAW, effective_tokens
from backend.domain.scaling.shapes import count_all, count_without_embeddings
from backend.domain.statistics import Estimate
from backend.domain.training.config import Objective, RunConfig
from backend.domain.training.launch_warnings import LaunchFacts, LaunchWarning, warnings_of
from backend.errors import RoundhouseError
from backend.services.context import Context
from backend.services.data.reports import find_data_report
from backend.services.estimates.measurements import find_shape, predict
from backend.services.jobs.jobs import JobView
from backend.services.jobs.queue_position import ahead_of_new
from backend.services.jobs.workers import list_workers
from backend.services.scaling.planner import OWN, Reading, choose_law, count_tokens
from backend.services.training.parts import RunParts, checkpoint_bytes, parse_config, resolve_parts
from backend.services.training.row_check import look_at_rows

MOST_PREDICTED = 4
DECIDES_TIME = (
    "objective",
    "method",
    "dataset",
    "architecture",
    "tokenizer",
    "base",
    "lora",
    "max_steps",
    "micro_batch",
    "grad_accum_steps",
    "context",
    "precision",
    "recompute",
    "compile",
    "device",
    "devices",
)


@dataclass(frozen=True)
class QueuePlace:
    """Who runs or waits before a new run. `wait_s` is None where it is not known; `num_slots` 0 where no worker serves the queue."""

    ahead: int
    num_slots: int
    wait_s: float | None


@dataclass(frozen=True)
class ExpectedLoss:
    """The val_loss that a law expects of a pretraining. `is_own`: by a law fitted to finished runs on the same data."""

    estimate: Estimate
    law: str
    is_own: bool


@dataclass(frozen=True)
class Forecast:
    """What a run is expected to do and to need.

    `steps` are fewer than max_steps where max_epochs ends the run first. `epochs_at_least`: how many rows share a sequence is not
    known, so more are read in a step. `cost_usd` is None without a price or a time. `loss_missing` says why a pretraining has no `loss`.
    """

    steps: int
    tokens: int
    epochs: float | None
    epochs_at_least: bool
    prediction: Prediction
    checkpoint_bytes: int
    num_checkpoints: int
    free_bytes: int
    price_usd: float | None
    cost_usd: float | None
    loss: ExpectedLoss | None
    loss_missing: str
    place: QueuePlace
    warnings: tuple[LaunchWarning, ...]

    @property
    def disk_bytes(self) -> int:
        """What the checkpoints take that are kept at once."""
        return self.checkpoint_bytes * self.num_checkpoints


def forecast(ctx: Context, config: RunConfig) -> Forecast:
    """Say what a run will do, without launching it.

    Raises NotFound, InvalidInput or Conflict for a config whose parts are not there or don't fit together.
    """
    parts = resolve_parts(ctx, config)
    shape = find_shape(ctx, parts)
    prediction = predict(ctx, config)
    report = _report(ctx, config, parts)
    unique = count_tokens(parts.version, parts.tokenizer) if parts.tokenizer else None
    packs = shape is None or FAMILIES[shape.family].packs
    epochs, at_least = _epochs(config, parts, unique=unique, report=report, packs=packs)
    steps = config.max_steps
    if config.max_epochs and epochs and epochs > config.max_epochs:
        steps, epochs = max(1, round(steps * config.max_epochs / epochs)), config.max_epochs
    seconds = prediction.time.seconds * steps / config.max_steps if prediction.time else None
    price = ctx.policy.device_hour_price_usd
    one, kept = checkpoint_bytes(config, parts)
    loss = _expected_loss(ctx, config, parts, shape, tokens=steps * config.tokens_per_step, unique=unique)
    believable = loss is not None and shape is not None and loss.estimate.value < BELIEVABLE * math.log(shape.vocab_size)
    facts = LaunchFacts(
        body=count_without_embeddings(shape) if shape else parts.base.parameters if parts.base else None,
        unique_tokens=unique,
        epochs=epochs,
        seconds=seconds,
        val_rows=parts.version.val_rows if parts.version.is_ready else None,
        packs=packs,
        padding=1.0 - report.packing.padded if report and report.packing.padded else None,
        cut_rows=report.train.truncated_share if report else None,
        silent_rows=_silent_share(ctx, config, parts, report),
        fits=prediction.fits,
        device=prediction.device,
    )
    return Forecast(
        steps=steps,
        tokens=steps * config.tokens_per_step,
        epochs=epochs,
        epochs_at_least=at_least,
        prediction=prediction,
        checkpoint_bytes=one,
        num_checkpoints=kept,
        free_bytes=ctx.artifacts.free_bytes(),
        price_usd=price,
        cost_usd=seconds / 3600 * price * config.devices.count if price and seconds is not None else None,
        loss=loss if believable else None,
        loss_missing="the published laws don't reach down to so small a run" if loss is not None and not believable else "",
        place=queue_place(ctx, config),
        warnings=warnings_of(config, facts),
    )


def queue_place(ctx: Context, config: RunConfig) -> QueuePlace:
    """Return where in its queue a run would wait, and how long as far as the jobs before it are known."""
    workers = [worker for worker in list_workers(ctx) if worker.is_alive and config.queue in worker.queues]
    slots = sum(max(1, len(worker.devices) or worker.concurrency) for worker in workers)
    ahead = ahead_of_new(ctx, config.queue, priority=config.priority)
    wait = 0.0 if slots and len(ahead) < slots else expected_wait_s(_lengths(ctx, ahead), slots=slots)
    return QueuePlace(len(ahead), slots, wait)


def _lengths(ctx: Context, ahead: Sequence[JobView]) -> list[Progress | None]:
    """Return how far jobs are; of waiting runs, how long they are expected to take, if they are not too many unlike ones to ask."""
    waiting = [job.id for job in ahead if job.status is Status.QUEUED]
    with ctx.db.read() as session:
        query = select(Run.job_id, Run.config).where(Run.job_id.in_(waiting))
        configs: dict[str | None, dict[str, Any]] = dict(session.execute(query).tuples().all())
    kinds = {job_id: json.dumps({name: config.get(name) for name in DECIDES_TIME}) for job_id, config in configs.items()}
    if len(set(kinds.values())) > MOST_PREDICTED:
        return [None]
    one_each = {kind: configs[job_id] for job_id, kind in kinds.items()}
    times = {kind: _expected(ctx, config) for kind, config in one_each.items()}
    return [times.get(kinds.get(job.id, "")) if job.id in waiting else read_progress(job.progress) for job in ahead]


def _expected(ctx: Context, values: dict[str, Any]) -> Progress | None:
    try:
        time = predict(ctx, parse_config(values)).time
    except RoundhouseError:  # what it was made of is gone
        return None
    return Progress(0, 1, "run", None, time.seconds, "") if time else None


def _source(parts: RunParts) -> str | None:
    return f"checkpoint:{parts.base.id}" if parts.base else f"tokenizer:{parts.tokenizer.id}" if parts.tokenizer else None


def _silent_share(ctx: Context, config: RunConfig, parts: RunParts, report: DataReport | None) -> float | None:
    """Return the share of train rows with nothing to train on: by a report, or at least, by a look at some rows."""
    if report is not None:
        return report.train.zero_label_rows / max(1, report.train.rows)
    look = look_at_rows(ctx, parts.version, source=_source(parts))
    return look.silent(config.context) / len(look.prompts) if look else None


def _report(ctx: Context, config: RunConfig, parts: RunParts) -> DataReport | None:
    """Return what a report has found of the data, seen through the same base or tokenizer at the same context."""
    source = _source(parts)
    view = find_data_report(ctx, parts.version.id, source=source, context=config.context) if source else None
    return view.report if view else None


def _epochs(config: RunConfig, parts: RunParts, *, unique: int | None, report: DataReport | None, packs: bool) -> tuple[float | None, bool]:
    """Return (passes over the train split, whether they are a lower bound)."""
    if config.objective is Objective.PRETRAIN:
        known = report.train.tokens if report and report.train.tokens else unique
        return (config.tokens_per_step * config.max_steps / known, False) if known else (None, False)
    sequences = config.tokens_per_step // config.context * config.max_steps
    if config.objective is Objective.GRPO:
        sequences //= config.grpo.group_size
    packs = packs and config.objective is Objective.SFT and config.packing
    if packs and report and report.packing.packed_sequences:
        return sequences / report.packing.packed_sequences, False
    return (sequences / parts.version.train_rows, packs) if parts.version.train_rows else (None, False)


def _expected_loss(
    ctx: Context, config: RunConfig, parts: RunParts, shape: ArchitectureConfig | None, *, tokens: int, unique: int | None
) -> ExpectedLoss | None:
    """Return what a law says of a pretraining from nothing: one's own where finished runs give one, otherwise the planner's first."""
    if config.objective is not Objective.PRETRAIN or parts.tokenizer is None or shape is None or shape.num_experts is not None:
        return None
    worth = effective_tokens(tokens, unique) if unique else float(tokens)
    reading = Reading(parts.version, parts.tokenizer, shape.vocab_size, unique)
    for key in (OWN, DEFAULT_LAW):
        try:
            law = choose_law(ctx, key, reading=reading, context=config.context)
            return ExpectedLoss(law.loss_estimate(count_all(shape), worth), law.title, key == OWN)
        except RoundhouseError:
            continue
    return None
