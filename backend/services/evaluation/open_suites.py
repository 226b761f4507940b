"""Suites of training runs: what was chosen at launch, started when a checkpoint appears or the run ends.

Imports no other service, so that the recorder of a job may start a suite and a worker may ask every few seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Checkpoint, Evaluation, Job, Run, RunSuite, Suite, SuiteResult
from backend.domain.evaluation.suites import Moment
from backend.domain.jobs.events import CheckpointEvent
from backend.domain.jobs.payloads import TrainPayload
from backend.domain.jobs.results import TrainResult
from backend.domain.jobs.states import ACTIVE, TERMINAL
from backend.domain.training.holds import hold_of
from backend.services.context import Context
from backend.services.jobs.claims import Claim


@dataclass(frozen=True)
class SuiteChoice:
    """A suite to evaluate a run's checkpoints on."""

    suite_id: str
    moment: Moment


def add_choice(session: Session, run_id: str, choice: SuiteChoice) -> None:
    """Store a choice with its run, in the transaction that launches the run."""
    session.add(RunSuite(run_id=run_id, suite_id=choice.suite_id, moment=choice.moment.value))


def list_choices(ctx: Context, run_id: str) -> list[tuple[str, Moment]]:
    """Return the suites chosen for a run: name and moment."""
    query = (
        select(Suite.name, RunSuite.moment)
        .join(RunSuite, RunSuite.suite_id == Suite.id)
        .where(RunSuite.run_id == run_id)
    )
    with ctx.db.read() as session:
        return [(name, Moment(moment)) for name, moment in session.execute(query.order_by(Suite.name))]


def start_at_checkpoint(session: Session, ctx: Context, claim: Claim[TrainPayload], event: CheckpointEvent) -> None:
    """Add the results that a new checkpoint gets; workers launch their evaluations. Twice adds nothing."""
    run = session.scalar(select(Run).where(Run.job_id == claim.job_id))
    checkpoint = (
        session.scalar(select(Checkpoint).where(Checkpoint.run_id == run.id, Checkpoint.step == event.step))
        if run
        else None
    )
    if run is not None and checkpoint is not None:
        _start(session, ctx, run, checkpoint, Moment.CHECKPOINT)


def start_at_end(session: Session, ctx: Context, claim: Claim[TrainPayload], result: TrainResult) -> None:
    """Add the results that a run's last checkpoint gets when the run has ended."""
    run = session.scalar(select(Run).where(Run.job_id == claim.job_id))
    query = (
        select(Checkpoint)
        .where(Checkpoint.deleted_at.is_(None), Checkpoint.folder.is_not(None))
        .order_by(Checkpoint.step.desc())
    )
    checkpoint = session.scalar(query.where(Checkpoint.run_id == run.id).limit(1)) if run else None
    if run is not None and checkpoint is not None:
        _start(session, ctx, run, checkpoint, Moment.END)


def list_open_results(ctx: Context) -> list[str]:
    """Return the ids of suite results with members that are still to be launched."""
    with ctx.db.read() as session:
        return list(
            session.scalars(
                select(SuiteResult.id).where(SuiteResult.launched_at.is_(None)).order_by(SuiteResult.created_at)
            )
        )


def release_scored(ctx: Context) -> None:
    """Remove the holds of checkpoints of active runs whose suites have ended, so that they may be removed."""
    chosen = select(RunSuite.run_id).join(Run, Run.id == RunSuite.run_id).join(Job, Job.id == Run.job_id)
    runs = chosen.where(RunSuite.moment == Moment.CHECKPOINT.value, Job.status.in_(ACTIVE))
    # PostgreSQL compares no JSON, so whole rows have no DISTINCT
    held = select(Checkpoint).where(Checkpoint.run_id.in_(runs))
    with ctx.db.read() as session:
        for checkpoint in session.scalars(held.where(Checkpoint.deleted_at.is_(None), Checkpoint.folder.is_not(None))):
            hold = hold_of(ctx.artifacts.root / str(checkpoint.folder))
            if hold.exists() and _is_scored(session, checkpoint):
                hold.unlink(missing_ok=True)


def _is_scored(session: Session, checkpoint: Checkpoint) -> bool:
    """Return whether all suites of a checkpoint were launched and their evaluations have ended."""
    results = list(session.scalars(select(SuiteResult).where(SuiteResult.checkpoint_id == checkpoint.id)))
    if not results or any(result.launched_at is None for result in results):
        return False
    ids = [one.evaluation for result in results for one in result.members if one.evaluation]
    unfinished = (
        select(Evaluation.id)
        .join(Job, Job.id == Evaluation.job_id)
        .where(Evaluation.id.in_(ids), Job.status.not_in(TERMINAL))
    )
    return session.scalar(unfinished.limit(1)) is None


def _start(session: Session, ctx: Context, run: Run, checkpoint: Checkpoint, moment: Moment) -> None:
    chosen = (
        select(Suite)
        .join(RunSuite, RunSuite.suite_id == Suite.id)
        .where(RunSuite.run_id == run.id, RunSuite.moment == moment.value)
    )
    for suite in session.scalars(chosen):
        known = select(SuiteResult.id).where(
            SuiteResult.suite_id == suite.id, SuiteResult.checkpoint_id == checkpoint.id
        )
        if session.scalar(known.limit(1)) is None:
            row = SuiteResult(
                suite_id=suite.id, checkpoint_id=checkpoint.id, config=suite.config, created_by=run.created_by
            )
            row.created_at = ctx.now()
            session.add(row)
