"""Convert a run's steps into tokens, time and FLOPs: constants per run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select

from backend.db.tables import Job, Run
from backend.domain.estimates.setting import setting_of
from backend.domain.jobs.payloads import TrainPayload
from backend.domain.training.config import RunConfig
from backend.domain.training.summary import RunSummary
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
            select(Run.id, Run.config, Run.summary, Job.payload)
            .outerjoin(Job, Job.id == Run.job_id)
            .where(Run.id.in_(run_ids))
        )
        rows = session.execute(query).all()
    return {run_id: _axes(ctx, config, summary, payload) for run_id, config, summary, payload in rows}


def _axes(ctx: Context, config: RunConfig | None, summary: RunSummary, payload: Mapping[str, object] | None) -> RunAxes:
    if (imported := summary.imported) is not None:
        return RunAxes(imported.tokens_per_step, imported.flops_per_step, imported.has_time)
    if config is None:
        return RunAxes(None, None)
    shape = network_of_payload(ctx, TrainPayload.read(payload)) if payload else None
    if shape is None:
        return RunAxes(config.tokens_per_step, None)
    per_token = setting_of(config, shape, device="cpu").flops_per_token
    return RunAxes(config.tokens_per_step, float(per_token) * config.tokens_per_step)
