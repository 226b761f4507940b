"""Diagnose runs from their stored points."""

from __future__ import annotations

from sqlalchemy import select

from backend.db.tables import Architecture, Checkpoint, Job, Run, Tokenizer
from backend.domain.jobs.states import ACTIVE, Status
from backend.domain.scaling.shapes import count_without_embeddings
from backend.domain.training.diagnosis import Finding, RunFacts, Series, diagnose
from backend.services.context import Context
from backend.services.metrics.blocks import read_points, run_metric_names
from backend.services.training.views import find_run

LOOKED_AT = frozenset({"train_loss", "val_loss", "grad_norm", "data_wait"})


def diagnose_run(ctx: Context, name_or_id: str) -> list[Finding]:
    """Return the findings of a run, most severe first. Raises NotFound."""
    with ctx.db.read() as session:
        run: Run = find_run(session, name_or_id)
        job = session.get(Job, run.job_id) if run.job_id else None
        tokenizer = run.config.tokenizer if run.config else None
        vocab_size = session.scalar(select(Tokenizer.vocab_size).where(Tokenizer.name == tokenizer))
        architecture = session.get(Architecture, run.architecture_id) if run.architecture_id else None
        base = session.get(Checkpoint, run.base_id) if run.base_id else None
        points = {
            name: read_points(session, run.id, name_id)
            for name_id, name in run_metric_names(session, run.id)
            if name in LOOKED_AT
        }
    facts = RunFacts(
        config=run.config,
        has_ended=job is None or Status(job.status) not in ACTIVE,
        failure=job.error.cause if job is not None and job.status == Status.FAILED else "",
        not_finite=run.summary.not_finite,
        vocab_size=vocab_size,
        body=count_without_embeddings(architecture.config) if architecture else base.parameters if base else None,
    )
    return diagnose({name: Series(one.steps, one.values) for name, one in points.items()}, facts)
