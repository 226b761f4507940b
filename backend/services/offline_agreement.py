"""Benchmarks as predictors of the votes: scores of a campaign's contestants beside their ratings."""

from __future__ import annotations

from collections import defaultdict

from backend.domain.battles.agreement import OfflineAgreement, offline_agreement
from backend.domain.evaluation.config import is_score_lower_better
from backend.domain.jobs.states import Status
from backend.services.battles.standings import standings
from backend.services.context import Context
from backend.services.evaluation.evaluations import list_evaluations


def compare_benchmarks(ctx: Context, campaign_id: str) -> list[OfflineAgreement]:
    """Return every benchmark that two contestants were evaluated on, the best predictor of the votes first; empty
    without votes.

    Each contestant counts with the main metric of its newest finished evaluation on a version.
    """
    board = standings(ctx, campaign_id)
    if board.table is None:
        return []
    ratings = {row.contestant: row.rating for row in board.table.ratings}
    scores: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for name, checkpoint_id in board.checkpoints.items():
        for evaluation in list_evaluations(ctx, checkpoint_id=checkpoint_id):
            score = evaluation.main_score if evaluation.status is Status.FINISHED else None
            if score is not None:
                scores[evaluation.benchmark, score.metric].setdefault(name, score.value)
    compared = [
        offline_agreement(
            ratings, values, benchmark=benchmark, metric=metric, lower_is_better=is_score_lower_better(metric)
        )
        for (benchmark, metric), values in scores.items()
        if len(set(values) & set(ratings)) > 1
    ]
    return sorted(
        compared, key=lambda one: (-(one.tau if one.tau is not None else -2.0), -one.contestants, one.benchmark)
    )
