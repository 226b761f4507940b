"""Aggregate item values to the scores of an evaluation, each with standard error and interval."""

from __future__ import annotations

from collections.abc import Sequence

from backend.domain.attributes import view_of
from backend.domain.evaluation.clusters import CLUSTER
from backend.domain.evaluation.config import EvaluationKind
from backend.domain.jobs.results import ScoreRow
from backend.domain.statistics.estimates import (
    Estimate,
    bits_per_byte_estimate,
    perplexity_estimate,
    ratio_estimate,
    share_estimate,
)
from backend.errors import InvalidInput

Values = dict[str, float]
METRICS = ("acc", "acc_norm", "acc_bytes", "acc_token", "exact_match", "contains", "numeric")


def estimate_scores(kind: EvaluationKind, items: Sequence[Values], *, unit: str) -> list[ScoreRow]:
    """Return the scores of a kind.

    Raises InvalidInput if there is nothing to average, such as texts without a scored token.
    """
    if not items:
        raise InvalidInput("No item was scored.", remedy="Check that the benchmark has rows.")
    if kind is EvaluationKind.PERPLEXITY:
        return _perplexity_scores(items, unit=unit)
    rows = []
    for name in METRICS:
        own = [item for item in items if name in item]  # an item without a value is missing, not wrong
        if own:
            rows.append(_row(name, share_estimate([item[name] for item in own], clusters=_clusters(own))))
    return rows


def _perplexity_scores(items: Sequence[Values], *, unit: str) -> list[ScoreRow]:
    nlls, clusters = [item["sum_nll"] for item in items], _clusters(items)
    tokens, sizes = [item["tokens"] for item in items], [item["bytes"] for item in items]
    if not sum(tokens) or not sum(sizes):
        raise InvalidInput("The text has nothing to score.", remedy="Choose a split with text in it.")
    return [
        _row("nll_per_token", ratio_estimate(nlls, tokens, clusters=clusters), unit=unit),
        _row("token_perplexity", perplexity_estimate(nlls, tokens, clusters=clusters), unit=unit),
        _row("bits_per_byte", bits_per_byte_estimate(nlls, sizes, clusters=clusters), unit=unit),
    ]


def _clusters(items: Sequence[Values]) -> list[float] | None:
    """Return the items' clusters where every item states one."""
    return [item[CLUSTER] for item in items] if all(CLUSTER in item for item in items) else None


def _row(metric: str, estimate: Estimate, *, unit: str = "") -> ScoreRow:
    method = f"{estimate.method}, over {unit}" if unit else estimate.method
    return view_of(ScoreRow, estimate, metric=metric, method=method)
