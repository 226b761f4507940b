"""Pool finished runs by dataset version, tokenizer and context, to fit scaling laws to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic import ValidationError
from sqlalchemy import select

from backend.db.tables import Job, Run, Tokenizer
from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.flops import count_flops
from backend.domain.jobs.states import Status
from backend.domain.scaling.laws import effective_tokens
from backend.domain.scaling.points import ScalingPoint
from backend.domain.scaling.shapes import count_all
from backend.services.context import Context
from backend.services.data.views import version_labels

MAX_RUNS = 500


@dataclass(frozen=True)
class PoolRun:
    """A finished run as a point: `point.tokens` counts repeated tokens in full."""

    run_id: str
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
    return PoolRun(run.id, run.name, run.group_id, shape.vocab_size, point)


def points_of_group(pools: Sequence[RunPool], group_id: str) -> list[ScalingPoint]:
    """Return the points of one study."""
    return [run.point for pool in pools for run in pool.runs if run.group_id == group_id]
