"""Forecast of evaluations before their launch: items, time and memory of each checkpoint on each benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select

from backend.db.tables import Checkpoint, Evaluation, Job
from backend.domain.evaluation.answer_length import is_capped
from backend.domain.evaluation.config import EvaluationConfig
from backend.domain.evaluation.cost import MemoryEstimate, TimeEstimate, Timing, estimate_memory, estimate_time
from backend.domain.evaluation.tasks.definition import Form
from backend.domain.jobs.states import Status
from backend.services.checkpoints.checkpoints import CheckpointView
from backend.services.checkpoints.networks import read_network
from backend.services.context import Context
from backend.services.data.datasets import resolve_version
from backend.services.evaluation.evaluations import Plan, plan_evaluation

MOST_EARLIER = 500


@dataclass(frozen=True)
class EvaluationForecast:
    """One checkpoint on one benchmark: its plan, and its time if something like it has run."""

    checkpoint: CheckpointView
    benchmark: str
    plan: Plan
    time: TimeEstimate | None
    memory: MemoryEstimate
    cap: str = ""
    """Says that the context cuts long answers, where it may."""


@dataclass(frozen=True)
class TotalForecast:
    """Evaluations one after another. `time` leaves out the `unknown` ones; its range is the sum of theirs. `memory` is the largest."""

    evaluations: tuple[EvaluationForecast, ...]
    time: TimeEstimate | None
    unknown: int
    memory: MemoryEstimate | None


def forecast_evaluations(ctx: Context, checkpoints: Sequence[CheckpointView], configs: Mapping[str, EvaluationConfig]) -> TotalForecast:
    """Return the forecast of every checkpoint on every benchmark (`name` or `name@version`, with its config).

    Raises what `plan_evaluation` raises.
    """
    earlier = _earlier(ctx)
    forecasts = []
    for benchmark, config in configs.items():
        plan, version = plan_evaluation(ctx, benchmark=benchmark, config=config), resolve_version(ctx, benchmark)
        for checkpoint in checkpoints:
            parameters = checkpoint.parameters or 0
            job = Timing(checkpoint.id, version.id, plan.kind.value, plan.items, config.shots, parameters)
            vocab = checkpoint.facts.get("vocab_size")
            memory = estimate_memory(parameters=parameters, vocab_size=vocab if isinstance(vocab, int) else None)
            forecasts.append(
                EvaluationForecast(
                    checkpoint, version.label, plan, estimate_time(job, earlier), memory, describe_cap(ctx, checkpoint, config)
                )
            )
    times = [one.time for one in forecasts if one.time is not None]
    total = TimeEstimate(sum(t.seconds for t in times), sum(t.low for t in times), sum(t.high for t in times), "") if times else None
    largest = max((one.memory for one in forecasts), key=lambda memory: memory.bytes, default=None)
    return TotalForecast(tuple(forecasts), total, len(forecasts) - len(times), largest)


def describe_cap(ctx: Context, checkpoint: CheckpointView, config: EvaluationConfig) -> str:
    """Return what to know before the launch of a task whose longest answer does not fit beside its prompts; empty where it does."""
    if config.task is None or config.task.form is not Form.GENERATE or checkpoint.folder is None:
        return ""
    shape, longest = read_network(ctx, checkpoint.folder), config.task.max_tokens
    context = checkpoint.facts.get("context") or (shape.context if shape else None)
    if not isinstance(context, int) or not is_capped(longest, context=context):
        return ""
    return (
        f"Answers of {longest} tokens do not fit beside a prompt in the context of {context} of “{checkpoint.name}”: "
        "each ends where the context does, and those that were cut are counted."
    )


def _earlier(ctx: Context) -> list[Timing]:
    """Return the newest evaluations that one attempt finished."""
    query = (
        select(Evaluation.checkpoint_id, Evaluation.dataset_version_id, Evaluation.kind, Evaluation.config, Checkpoint.parameters, Job)
        .join(Job, Job.id == Evaluation.job_id)
        .join(Checkpoint, Checkpoint.id == Evaluation.checkpoint_id)
        .where(Job.status == Status.FINISHED, Job.attempt == 1, Job.started_at.is_not(None), Job.finished_at.is_not(None))
        .order_by(Evaluation.created_at.desc())
        .limit(MOST_EARLIER)
    )
    with ctx.db.read() as session:
        return [
            Timing(
                checkpoint=checkpoint,
                benchmark=version,
                kind=kind,
                items=int(config.get("facts", {}).get("items") or 0),
                shots=int(config.get("settings", {}).get("shots") or 0),
                parameters=parameters or 0,
                seconds=(job.finished_at - job.started_at).total_seconds(),
            )
            for checkpoint, version, kind, config, parameters, job in session.execute(query)
        ]
