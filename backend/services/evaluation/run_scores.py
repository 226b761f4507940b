"""Scores of a run's checkpoints along its training steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select

from backend.db.tables import Checkpoint, Evaluation
from backend.domain.jobs.states import Status
from backend.services.context import Context
from backend.services.evaluation.board import read_columns
from backend.services.evaluation.evaluations import ScoreView, get_evaluations
from backend.services.evaluation.suites import MemberResult, SuiteResultView, list_suite_results


@dataclass(frozen=True)
class ScoreCurve:
    """A score by training step, of a benchmark or a suite."""

    label: str
    metric: str
    points: tuple[tuple[int, ScoreView], ...]


@dataclass(frozen=True)
class RunScores:
    """Curves of a run's evaluations, and the validation loss at its checkpoints.

    `failed_steps`: steps at which a benchmark of a suite could not be scored, as where the run had removed the
    checkpoint.
    """

    losses: tuple[tuple[int, float], ...]
    curves: tuple[ScoreCurve, ...]
    num_active: int
    failed_steps: tuple[int, ...] = ()


def read_run_scores(ctx: Context, run_id: str) -> RunScores:
    """Return the newest comparable scores of a run's checkpoints by benchmark, suites' macro averages first."""
    with ctx.db.read() as session:
        checkpoints = {
            c.id: c
            for c in session.scalars(
                select(Checkpoint).where(Checkpoint.run_id == run_id, Checkpoint.step.is_not(None))
            )
        }
        query = (
            select(Evaluation.id)
            .where(Evaluation.checkpoint_id.in_(checkpoints))
            .order_by(Evaluation.created_at.desc())
        )
        ids = list(session.scalars(query))
    evaluations = get_evaluations(ctx, ids)
    results = list_suite_results(ctx, run_id=run_id)
    curves = _suite_curves(results)
    for column, members in read_columns(evaluations):
        newest: dict[int, ScoreView] = {}
        for evaluation in members:
            step, score = checkpoints[evaluation.subject_id].step, evaluation.score(column.metric)
            if step is not None and score is not None:
                newest.setdefault(step, score)
        if newest:
            curves.append(ScoreCurve(column.label, column.metric, tuple(sorted(newest.items()))))
    losses = [
        (c.step, float(loss))
        for c in checkpoints.values()
        if c.step is not None and (loss := c.metrics.get("val_loss")) is not None
    ]
    failed = {
        result.step
        for result in results
        if result.step is not None and any(_failed(member) for member in result.members)
    }
    num_active = sum(evaluation.is_active for evaluation in evaluations)
    return RunScores(tuple(sorted(losses)), tuple(curves), num_active, tuple(sorted(failed)))


def _failed(member: MemberResult) -> bool:
    return bool(member.error) or (member.evaluation is not None and member.evaluation.status is Status.FAILED)


def _suite_curves(results: Sequence[SuiteResultView]) -> list[ScoreCurve]:
    points: dict[str, dict[int, ScoreView]] = {}
    for result in results:
        if result.macro is not None and result.step is not None:
            macro = result.macro
            score = ScoreView("acc", macro.value, macro.stderr, macro.low, macro.high, macro.n, macro.method)
            points.setdefault(result.suite, {}).setdefault(result.step, score)
    return [
        ScoreCurve(f"{suite}, macro average", "acc", tuple(sorted(steps.items()))) for suite, steps in points.items()
    ]
