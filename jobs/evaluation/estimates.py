"""Aggregate item values to the scores of an evaluation, each with standard error and interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from backend.domain.evaluation.config import EvaluationKind
from backend.domain.jobs.results import ScoreRow
from backend.domain.statistics.estimates import (
    Estimate,
    bits_per_byte_estimate,
    normal_quantile,
    perplexity_estimate,
    proportion_estimate,
    ratio_estimate,
    wilson_interval,
)
from backend.errors import InvalidInput

Values = dict[str, float]


def estimate_scores(kind: EvaluationKind, items: Sequence[Values], *, unit: str) -> list[ScoreRow]:
    """Return the scores of a kind.

    Raises InvalidInput if there is nothing to average, such as texts without a scored token.
    """
    if not items:
        raise InvalidInput("No item was scored.", remedy="Check that the benchmark has rows.")
    if kind is EvaluationKind.PERPLEXITY:
        return _perplexity_scores(items, unit=unit)
    metrics = [name for name in ("acc", "acc_norm", "exact_match", "contains", "numeric") if name in items[0]]
    return [_row(name, share_estimate([item[name] for item in items])) for name in metrics]


def share_estimate(values: Sequence[float]) -> Estimate:
    """Average values between 0 and 1 with Wilson's interval; shared credit for ties makes some of them fractions."""
    array = np.asarray(values, dtype=np.float64)
    if np.isin(array, (0.0, 1.0)).all():
        return proportion_estimate(int(array.sum()), len(array))
    share = float(array.mean())
    critical = normal_quantile(0.95)
    low, high = wilson_interval(share, len(array), critical=critical)
    stderr = float(array.std(ddof=1) / math.sqrt(len(array))) if len(array) > 1 else (high - low) / (2 * critical)
    if stderr == 0:  # all values equal (every item a tie): the plug-in error is 0, which is false
        stderr = (high - low) / (2 * critical)
    return Estimate(share, stderr, low, high, len(array), "Wilson 95 %, ties share credit")


def _perplexity_scores(items: Sequence[Values], *, unit: str) -> list[ScoreRow]:
    nlls = [item["sum_nll"] for item in items]
    tokens, sizes = [item["tokens"] for item in items], [item["bytes"] for item in items]
    if not sum(tokens) or not sum(sizes):
        raise InvalidInput("The text has nothing to score.", remedy="Choose a split with text in it.")
    return [
        _row("nll_per_token", ratio_estimate(nlls, tokens), unit=unit),
        _row("perplexity", perplexity_estimate(nlls, tokens), unit=unit),
        _row("bits_per_byte", bits_per_byte_estimate(nlls, sizes), unit=unit),
    ]


def _row(metric: str, estimate: Estimate, *, unit: str = "") -> ScoreRow:
    method = f"{estimate.method}, over {unit}" if unit else estimate.method
    return ScoreRow(
        metric=metric,
        value=estimate.value,
        stderr=estimate.stderr,
        low=estimate.low,
        high=estimate.high,
        n=estimate.n,
        method=method[:60],
    )
