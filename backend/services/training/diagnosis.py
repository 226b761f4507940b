"""Diagnose runs from their stored points."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from functools import lru_cache

from sqlalchemy import select

from backend.db.tables import Architecture, Checkpoint, Job, Run, Tokenizer
from backend.domain.jobs.states import ACTIVE, Status
from backend.domain.scaling.shapes import count_without_embeddings
from backend.domain.training.diagnosis import (
    Finding,
    RunFacts,
    Series,
    breaking_finding,
    diagnose,
    idle_finding,
    spoils,
)
from backend.services.context import Context
from backend.services.metrics.blocks import read_points, run_metric_names
from backend.services.training.views import find_run

LOOKED_AT = frozenset({"train_loss", "val_loss", "grad_norm", "data_wait"})
MAX_DIAGNOSED = 40
"""Runs that are diagnosed for one list of checkpoints, the newest first: it takes milliseconds each."""


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
        vocab_size=vocab_size or (base.facts.vocab_size if base else None),
        body=count_without_embeddings(architecture.config) if architecture else base.parameters if base else None,
    )
    return diagnose({name: Series(one.steps, one.values) for name, one in points.items()}, facts)


def spoiled_checkpoints(ctx: Context, ids: Collection[str]) -> set[str]:
    """Return those of some checkpoints that are of no use, since their run diverged before."""
    return {
        checkpoint_id
        for checkpoint_id, step, _, _, findings in _findings_of(ctx, ids)
        if spoils(breaking_finding(findings), step)
    }


def idle_checkpoints(ctx: Context, ids: Collection[str]) -> dict[str, tuple[str, str, Finding]]:
    """Return those of some checkpoints whose run, ended or not, has learned nothing, with its id, its name and the
    finding.
    """
    return {
        checkpoint_id: (run_id, name, finding)
        for checkpoint_id, _, run_id, name, findings in _findings_of(ctx, ids)
        if (finding := idle_finding(findings)) is not None
    }


def _findings_of(ctx: Context, ids: Collection[str]) -> list[tuple[str, int | None, str, str, Sequence[Finding]]]:
    """Return checkpoints of runs, the newest first: id, step, id and name of the run, and its findings."""
    with ctx.db.read() as session:
        rows = session.execute(
            select(Checkpoint.id, Checkpoint.step, Run.id, Run.name, Run.changed_at, Job.status)
            .join(Run, Run.id == Checkpoint.run_id)
            .outerjoin(Job, Job.id == Run.job_id)
            .where(Checkpoint.id.in_(ids))
            .order_by(Run.created_at.desc(), Run.id)
        ).all()
    runs = {run_id: (changed_at, status) for _, _, run_id, _, changed_at, status in rows}
    findings: dict[str, Sequence[Finding]] = {}
    for run_id, (changed_at, status) in list(runs.items())[:MAX_DIAGNOSED]:
        has_ended = status is None or Status(status) not in ACTIVE
        findings[run_id] = _findings_at_end(ctx, run_id, changed_at) if has_ended else diagnose_run(ctx, run_id)
    return [
        (checkpoint_id, step, run_id, name, findings.get(run_id, ()))
        for checkpoint_id, step, run_id, name, _, _ in rows
    ]


@lru_cache(maxsize=4 * MAX_DIAGNOSED)
def _findings_at_end(ctx: Context, run_id: str, _changed_at: datetime | None) -> Sequence[Finding]:
    """Return the findings of a run that has ended: its points change no more without its row."""
    return tuple(diagnose_run(ctx, run_id))
