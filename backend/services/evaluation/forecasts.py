"""Forecast of evaluations before launch: items, time, memory and price of each subject on each benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select

from backend.db.tables import Checkpoint, Evaluation, Job
from backend.domain.evaluation.config import EvaluationConfig, EvaluationKind
from backend.domain.evaluation.cost import (
    RUNTIME_BYTES,
    MemoryRange,
    TimeEstimate,
    Timing,
    estimate_endpoint_tokens,
    estimate_evaluation_memory,
    estimate_time,
    is_capped,
    longest_answer,
)
from backend.domain.evaluation.endpoints import check_request
from backend.domain.jobs.states import Status
from backend.domain.openai_servers import price_tokens
from backend.errors import RoundhouseError
from backend.services.checkpoints.checkpoints import CheckpointView
from backend.services.checkpoints.networks import read_network_shape
from backend.services.context import Context
from backend.services.data.datasets import resolve_version
from backend.services.data.views import VersionView
from backend.services.evaluation.endpoints import EvaluatedEndpointView
from backend.services.evaluation.evaluations import Plan, plan_evaluation
from backend.services.evaluation.prompt_lengths import prompt_lengths

MAX_EARLIER = 500


Subject = CheckpointView | EvaluatedEndpointView
"""The subject of an evaluation."""


@dataclass(frozen=True)
class EvaluationForecast:
    """One checkpoint or endpoint on one benchmark: its plan, and its time if something like it has run.

    `cut` says that the context cuts prompts, `cap` that it cuts long answers, where it may. Of an endpoint, `tokens`
    are those of prompts and answers that it will count, and `price` theirs, where an earlier evaluation tells.
    """

    subject: Subject
    benchmark: str
    plan: Plan
    time: TimeEstimate | None
    memory: MemoryRange
    cut: str = ""
    cap: str = ""
    tokens: tuple[float, float] | None = None
    price: float | None = None

    @property
    def is_endpoint(self) -> bool:
        """Return whether the network runs elsewhere."""
        return isinstance(self.subject, EvaluatedEndpointView)


@dataclass(frozen=True)
class TotalForecast:
    """Evaluations one after another. `time` is of all but `unknown` ones, its range a sum; `memory` the largest."""

    evaluations: tuple[EvaluationForecast, ...]
    time: TimeEstimate | None
    unknown: int
    memory: MemoryRange | None


def forecast_evaluations(
    ctx: Context, subjects: Sequence[Subject], configs: Mapping[str, EvaluationConfig]
) -> TotalForecast:
    """Return the forecast of every checkpoint and endpoint on every benchmark (`name` or `name@version`, with its
    config).

    Raises what `plan_evaluation` raises, and InvalidInput where an endpoint can't give what a benchmark needs.
    """
    earlier = _earlier(ctx)
    forecasts = []
    for benchmark, config in configs.items():
        plan, version = plan_evaluation(ctx, benchmark=benchmark, config=config), resolve_version(ctx, benchmark)
        for subject in subjects:
            if isinstance(subject, EvaluatedEndpointView):
                check_request(subject.name, config, plan.kind, subject.capabilities)
                forecasts.append(_forecast_endpoint(subject, version, plan, config, earlier))
            else:
                forecasts.append(_forecast_checkpoint(ctx, subject, version, plan, config, earlier))
    times = [one.time for one in forecasts if one.time is not None]
    total = (
        TimeEstimate(sum(t.seconds for t in times), sum(t.low for t in times), sum(t.high for t in times), "")
        if times
        else None
    )
    largest = max((one.memory for one in forecasts), key=lambda memory: memory.bytes, default=None)
    return TotalForecast(tuple(forecasts), total, len(forecasts) - len(times), largest)


def _forecast_checkpoint(
    ctx: Context,
    checkpoint: CheckpointView,
    version: VersionView,
    plan: Plan,
    config: EvaluationConfig,
    earlier: Sequence[Timing],
) -> EvaluationForecast:
    parameters, vocab = checkpoint.parameters or 0, checkpoint.facts.vocab_size
    job = Timing(checkpoint.id, version.id, plan.kind.value, plan.items, config.shots, parameters)
    memory = estimate_evaluation_memory(parameters=parameters, vocab_size=vocab if isinstance(vocab, int) else None)
    cut, cap = describe_cuts(ctx, checkpoint, version, plan, config), describe_cap(ctx, checkpoint, plan, config)
    return EvaluationForecast(checkpoint, version.label, plan, estimate_time(job, earlier), memory, cut, cap)


def _forecast_endpoint(
    endpoint: EvaluatedEndpointView,
    version: VersionView,
    plan: Plan,
    config: EvaluationConfig,
    earlier: Sequence[Timing],
) -> EvaluationForecast:
    shots = config.task.fewshot.count if config.task else config.shots
    job = Timing(endpoint.id, version.id, plan.kind.value, plan.items, shots, 0, is_endpoint=True)
    tokens, prices = estimate_endpoint_tokens(job, earlier), endpoint.config
    price = (
        None
        if tokens is None
        else price_tokens(*tokens, input_price=prices.input_price, output_price=prices.output_price)
    )
    process = MemoryRange(RUNTIME_BYTES, RUNTIME_BYTES, RUNTIME_BYTES)
    return EvaluationForecast(
        endpoint, version.label, plan, estimate_time(job, earlier), process, tokens=tokens, price=price
    )


def describe_cap(ctx: Context, checkpoint: CheckpointView, plan: Plan, config: EvaluationConfig) -> str:
    """Return what to know before the launch of answers that may not fit beside their prompts; empty where they do."""
    context = _context_of(ctx, checkpoint) if plan.kind is EvaluationKind.GENERATION else None
    longest = config.task.max_tokens if config.task else config.max_tokens
    if context is None or not is_capped(longest, context=context):
        return ""
    return (
        f"Answers of {longest} tokens do not fit beside a prompt in the context of {context} of “{checkpoint.name}”: "
        "each ends where the context does, and those that were cut are counted."
    )


def describe_cuts(
    ctx: Context, checkpoint: CheckpointView, version: VersionView, plan: Plan, config: EvaluationConfig
) -> str:
    """Return what to know before the launch of prompts that the context cuts, by a sample; empty where it cuts none, or
    where tokenizer or rows can't be read.

    The text of the prompts is counted, without a chat template or a begin token: no fewer are cut.
    """
    context = _context_of(ctx, checkpoint) if plan.kind is not EvaluationKind.PERPLEXITY else None
    if context is None:
        return ""
    try:
        lengths = prompt_lengths(ctx, checkpoint, version, plan, config)
    except RoundhouseError:  # the launch says what is wrong with them
        return ""
    longest = config.task.max_tokens if config.task else config.max_tokens
    is_generated = plan.kind is EvaluationKind.GENERATION
    answers = [longest_answer(longest, prompt=one, context=context) if is_generated else 0 for one in lengths]
    num_cut = sum(prompt + answer > context for prompt, answer in zip(lengths, answers, strict=True))
    if not num_cut:
        return ""
    head = f"prompts of {version.label} do not fit the context of {context:,} tokens of “{checkpoint.name}”"
    if num_cut < len(lengths):
        return f"Some {head}: {num_cut:,} of a sample of {len(lengths):,} lose their beginning."
    return (
        f"The {head}: each of a sample of {len(lengths):,} loses its beginning, and then there is no score of the"
        " benchmark. Use a checkpoint with a longer context, fewer examples, or another benchmark."
    )


def _context_of(ctx: Context, checkpoint: CheckpointView) -> int | None:
    if checkpoint.folder is None:
        return None
    context = checkpoint.facts.context
    if not context:
        shape = read_network_shape(ctx, checkpoint.folder)
        context = shape.context if shape else None
    return context if isinstance(context, int) else None


def _earlier(ctx: Context) -> list[Timing]:
    """Return the newest evaluations that one attempt finished."""
    query = (
        select(Evaluation, Checkpoint.parameters, Job.started_at, Job.finished_at)
        .join(Job, Job.id == Evaluation.job_id)
        .outerjoin(Checkpoint, Checkpoint.id == Evaluation.checkpoint_id)
        .where(
            Job.status == Status.FINISHED, Job.attempt == 1, Job.started_at.is_not(None), Job.finished_at.is_not(None)
        )
        .order_by(Evaluation.created_at.desc())
        .limit(MAX_EARLIER)
    )
    with ctx.db.read() as session:
        return [
            _timing(evaluation, parameters or 0, (finished - started).total_seconds())
            for evaluation, parameters, started, finished in session.execute(query)
            if started is not None and finished is not None and not evaluation.record.resumed
        ]


def _timing(evaluation: Evaluation, parameters: int, seconds: float) -> Timing:
    facts = evaluation.record.facts
    return Timing(
        checkpoint=evaluation.checkpoint_id or evaluation.endpoint_id or "",
        benchmark=evaluation.dataset_version_id,
        kind=evaluation.kind,
        items=facts.items or 0,
        shots=int(evaluation.record.settings.get("shots") or 0),
        parameters=parameters,
        seconds=seconds,
        is_endpoint=evaluation.endpoint_id is not None,
        prompt_tokens=facts.prompt_tokens,
        completion_tokens=facts.completion_tokens,
    )
