"""Items of an evaluation that are in its checkpoint's training data, from the reports on that data."""

from __future__ import annotations

import json
from dataclasses import dataclass

from sqlalchemy import select

from backend.db.tables import Analysis, DatasetVersion, EvaluationItem, Job, Run
from backend.domain.evaluation.config import EvaluationKind
from backend.domain.evaluation.contamination_split import SplitScores, split_scores
from backend.domain.jobs.states import JobKind, Status
from backend.services.checkpoints.checkpoints import list_lineage
from backend.services.context import Context
from backend.services.data.reports import get_data_report
from backend.services.evaluation.evaluations import EvaluationView


@dataclass(frozen=True)
class ContaminationCheck:
    """Contaminated items of an evaluation by position. `checked`: datasets with a report that searched them for this
    benchmark.

    `unchecked` are the other datasets that the checkpoint or an ancestor was trained on. `is_complete` is False where a
    report found more items than it lists; then there are no `scores`.
    """

    positions: frozenset[int]
    checked: tuple[str, ...]
    unchecked: tuple[str, ...]
    is_complete: bool
    scores: SplitScores | None


def check_contamination(ctx: Context, evaluation: EvaluationView, *, with_scores: bool = True) -> ContaminationCheck:
    """Return the contaminated items of an evaluation and, if asked, its scores with and without them (reads all)."""
    trained_on = _trained_on(ctx, evaluation.checkpoint_id) if evaluation.checkpoint_id else {}
    name, offset = evaluation.benchmark.partition("@")[0], _offset(ctx, evaluation)
    positions: set[int] = set()
    checked: list[str] = []
    is_complete = True
    for version_id, label in trained_on.items():
        report_id = _report_on(ctx, version_id, benchmark_id=evaluation.version_id)
        report = get_data_report(ctx, report_id).report if report_id else None
        if report is None:
            continue
        checked.append(label)
        numbers = {
            overlap.item for overlap in report.contamination if overlap.benchmark == name and overlap.split == "train"
        }
        listed = {overlap.item for overlap in report.contamination if overlap.benchmark == name}
        is_complete &= all(one.found <= len(listed) for one in report.benchmarks if one.name == name)
        positions |= {number - 1 - offset for number in numbers}
    unchecked = tuple(label for label in trained_on.values() if label not in checked)
    scores = _scores(ctx, evaluation, positions) if with_scores and checked and is_complete else None
    return ContaminationCheck(frozenset(positions), tuple(checked), unchecked, is_complete, scores)


def _trained_on(ctx: Context, checkpoint_id: str) -> dict[str, str]:
    """Return the dataset versions that a checkpoint and its ancestors were trained on: id to `name@version`."""
    labels = {one.run_id: one.dataset for one in list_lineage(ctx, checkpoint_id) if one.run_id and one.dataset}
    with ctx.db.read() as session:
        rows = session.execute(
            select(Run.id, Run.dataset_version_id).where(Run.id.in_(labels), Run.dataset_version_id.is_not(None))
        )
        return {str(version): str(labels[run_id]) for run_id, version in rows}


def _report_on(ctx: Context, version_id: str, *, benchmark_id: str) -> str | None:
    """Return the newest finished report on a version that searched it for this version of the benchmark."""
    query = (
        select(Analysis.id, Analysis.config)
        .join(Job, Job.id == Analysis.job_id)
        .where(
            Analysis.kind == JobKind.DATA_REPORT.value,
            Analysis.dataset_version_id == version_id,
            Job.status == Status.FINISHED,
        )
        .order_by(Analysis.created_at.desc())
    )
    with ctx.db.read() as session:
        return next(
            (
                report_id
                for report_id, config in session.execute(query)
                if json.dumps(benchmark_id) in json.dumps(config)
            ),
            None,
        )


def _offset(ctx: Context, evaluation: EvaluationView) -> int:
    """Return how many items a report counts before the first that was scored: those of the train split, where
    validation was scored.
    """
    if evaluation.settings.get("split") != "val":
        return 0
    with ctx.db.read() as session:
        return session.scalar(select(DatasetVersion.train_rows).where(DatasetVersion.id == evaluation.version_id)) or 0


def _scores(ctx: Context, evaluation: EvaluationView, positions: set[int]) -> SplitScores | None:
    if evaluation.kind is EvaluationKind.PERPLEXITY:
        return None
    query = select(EvaluationItem.position, EvaluationItem.values).where(EvaluationItem.evaluation_id == evaluation.id)
    groups: tuple[list[float], list[float]] = ([], [])
    with ctx.db.read() as session:
        for position, values in session.execute(query):
            if (value := values.get(evaluation.main_metric)) is not None:
                groups[position in positions].append(float(value))
    return split_scores(*groups)
