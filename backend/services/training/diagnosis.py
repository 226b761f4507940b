"""Diagnose runs from their stored points."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from sqlalchemy import select

from backend.db.tables import Architecture, Checkpoint, Job, Run, Tokenizer
from backend.domain.architectures.config import ArchitectureConfig
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
from backend.services.metrics.points import read_points, run_metric_names
from backend.services.training.views import find_run

LOOKED_AT = frozenset({"train_loss", "val_loss", "grad_norm", "data_wait", "completion_length"})
MAX_DIAGNOSED = 50
"""Runs that are diagnosed for one list of checkpoints or runs, the newest first: it takes milliseconds each."""


@dataclass(frozen=True)
class DiagnosedCheckpoint:
    """A checkpoint with its run's id, name and findings. `is_alone`: the run finished, and is none of a sweep."""

    id: str
    step: int | None
    run_id: str
    run: str
    findings: Sequence[Finding]
    is_alone: bool

    @property
    def is_spoiled(self) -> bool:
        """Return whether it is of no use, since its run diverged before."""
        return spoils(breaking_finding(self.findings), self.step)

    @property
    def is_useless(self) -> bool:
        """Return whether it is of no use, or its run has learned nothing."""
        return self.is_spoiled or idle_finding(self.findings) is not None

    @property
    def trouble(self) -> Finding | None:
        """Return why its run needs attention: it finished although it diverged, or has learned nothing."""
        return (breaking_finding(self.findings) if self.is_alone else None) or idle_finding(self.findings)


def diagnose_run(ctx: Context, name_or_id: str) -> list[Finding]:
    """Return the findings of a run, most severe first. Raises NotFound."""
    with ctx.db.read() as session:
        run: Run = find_run(session, name_or_id)
        job = session.get(Job, run.job_id) if run.job_id else None
        tokenizer = run.config.tokenizer if run.config else None
        vocab_size = session.scalar(select(Tokenizer.vocab_size).where(Tokenizer.name == tokenizer))
        stored = session.get(Architecture, run.architecture_id) if run.architecture_id else None
        own = run.config.architecture if run.config else None
        shape = stored.config if stored else own if isinstance(own, ArchitectureConfig) else None
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
        body=count_without_embeddings(shape) if shape else base.parameters if base else None,
    )
    return diagnose({name: Series(one.steps, one.values) for name, one in points.items()}, facts)


def spoiled_checkpoints(ctx: Context, ids: Collection[str]) -> set[str]:
    """Return those of some checkpoints that are of no use, since their run diverged before."""
    return {one.id for one in diagnose_checkpoints(ctx, ids) if one.is_spoiled}


def diagnose_checkpoints(ctx: Context, ids: Collection[str]) -> list[DiagnosedCheckpoint]:
    """Return those of some checkpoints that runs have made, of the newest run first, with the findings."""
    with ctx.db.read() as session:
        rows = session.execute(
            select(Checkpoint.id, Checkpoint.step, Run.id, Run.name, Run.group_id, Job.status)
            .join(Run, Run.id == Checkpoint.run_id)
            .outerjoin(Job, Job.id == Run.job_id)
            .where(Checkpoint.id.in_(ids))
            .order_by(Run.created_at.desc(), Run.id)
        ).all()
    findings = _findings_of(ctx, [run_id for _, _, run_id, *_ in rows])
    return [
        DiagnosedCheckpoint(
            checkpoint_id, step, run_id, name, findings.get(run_id, ()), status == Status.FINISHED and group_id is None
        )
        for checkpoint_id, step, run_id, name, group_id, status in rows
    ]


def useless_runs(ctx: Context, ids: Collection[str]) -> dict[str, str]:
    """Return by id which of some finished runs diverged or learned nothing, as a few words."""
    with ctx.db.read() as session:
        query = select(Run.id).join(Job, Job.id == Run.job_id).where(Run.id.in_(ids), Job.status == Status.FINISHED)
        finished = session.scalars(query).all()
    return {
        run_id: "diverged" if breaking_finding(findings) else "learned nothing"
        for run_id, findings in _findings_of(ctx, finished).items()
        if breaking_finding(findings) or idle_finding(findings)
    }


def _findings_of(ctx: Context, run_ids: Collection[str]) -> dict[str, Sequence[Finding]]:
    """Return the findings of the newest of some runs by id."""
    with ctx.db.read() as session:
        rows = session.execute(
            select(Run.id, Run.changed_at, Job.status)
            .outerjoin(Job, Job.id == Run.job_id)
            .where(Run.id.in_(run_ids))
            .order_by(Run.created_at.desc(), Run.id)
            .limit(MAX_DIAGNOSED)
        ).all()
    return {
        run_id: diagnose_run(ctx, run_id) if status in ACTIVE else _findings_at_end(ctx, run_id, changed_at)
        for run_id, changed_at, status in rows
    }


@lru_cache(maxsize=4 * MAX_DIAGNOSED)
def _findings_at_end(ctx: Context, run_id: str, _changed_at: datetime | None) -> Sequence[Finding]:
    """Return the findings of a run that has ended: its points change no more without its row."""
    return tuple(diagnose_run(ctx, run_id))
