"""Convert a run's steps into tokens, time and FLOPs: constants per run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select

from backend.db.tables import Job, Run
from backend.domain.estimates.setting import setting_of
from backend.domain.jobs.payloads import TrainPayload
from backend.domain.training.config import RunConfig
from backend.domain.training.summary import RunSummary, mean_tokens_per_step
from backend.services.checkpoints.networks import network_of_payload
from backend.services.context import Context


@dataclass(frozen=True)
class RunAxes:
    """Tokens and training FLOPs per step; None if not known."""

    tokens_per_step: float | None
    flops_per_step: float | None
    has_time: bool = True


def axes_of_runs(ctx: Context, run_ids: Sequence[str]) -> dict[str, RunAxes]:
    """Return the axes of runs by id, without deleted runs."""
    with ctx.db.read() as session:
        query = (
            select(Run.id, Run.config, Run.summary, Run.last_step, Job.payload)
            .outerjoin(Job, Job.id == Run.job_id)
            .where(Run.id.in_(run_ids))
        )
        rows = session.execute(query).all()
    return {run_id: _axes(ctx, *rest) for run_id, *rest in rows}


def _axes(
    ctx: Context, config: RunConfig | None, summary: RunSummary, steps: int, payload: Mapping[str, object] | None
) -> RunAxes:
    if (imported := summary.imported) is not None:
        return RunAxes(imported.tokens_per_step, imported.flops_per_step, imported.has_time)
    if config is None:
        return RunAxes(None, None)
    shape = network_of_payload(ctx, TrainPayload.read(payload)) if payload else None
    tokens = mean_tokens_per_step(
        config.tokens_per_step, samples=config.objective.samples, last=summary.last, steps=steps
    )
    if shape is None or tokens is None:
        return RunAxes(tokens, None)
    per_token = setting_of(config, shape, device="cpu").flops_per_token
    return RunAxes(tokens, float(per_token) * tokens)
