"""Score on contaminated items against clean ones: two independent groups of items. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backend.domain.statistics.estimates import (
    Estimate,
    mean_estimate,
    normal_quantile,
    proportion_estimate,
    student_quantile,
    wilson_interval,
)


@dataclass(frozen=True)
class SplitScores:
    """Scores of two groups of items, and contaminated minus clean; None for a group without items."""

    clean: Estimate | None
    contaminated: Estimate | None
    difference: Estimate | None


def split_scores(clean: Sequence[float], contaminated: Sequence[float]) -> SplitScores:
    """Return both groups' scores and their difference with its 95 % interval.

    Shares of 0 and 1: Newcombe's hybrid score interval (1998, Statistics in Medicine 17, method 10). Other values:
    Welch's t interval.
    """
    groups = [_estimate(values) if len(values) else None for values in (clean, contaminated)]
    return SplitScores(groups[0], groups[1], _difference(clean, contaminated) if all(groups) else None)


def _estimate(values: Sequence[float]) -> Estimate:
    return proportion_estimate(round(sum(values)), len(values)) if _is_binary(values) else mean_estimate(values)


def _difference(clean: Sequence[float], contaminated: Sequence[float]) -> Estimate:
    count = len(clean) + len(contaminated)
    value = sum(contaminated) / len(contaminated) - sum(clean) / len(clean)
    if _is_binary(clean) and _is_binary(contaminated):
        return _newcombe(sum(contaminated) / len(contaminated), len(contaminated), sum(clean) / len(clean), len(clean))
    parts = [
        float(np.var(group, ddof=1)) / len(group) if len(group) > 1 else math.nan for group in (contaminated, clean)
    ]
    stderr = math.sqrt(sum(parts))
    if not math.isfinite(stderr) or stderr == 0:
        return Estimate(value, None, None, None, count, "difference of two groups: too few items for an interval")
    df = sum(parts) ** 2 / sum(
        part**2 / (len(group) - 1) for part, group in zip(parts, (contaminated, clean), strict=True)
    )
    margin = student_quantile(0.95, df=df) * stderr
    return Estimate(value, stderr, value - margin, value + margin, count, "Welch's t interval 95 %")


def _newcombe(first: float, n_first: int, second: float, n_second: int) -> Estimate:
    critical = normal_quantile(0.95)
    low_1, high_1 = wilson_interval(first, n_first, critical=critical)
    low_2, high_2 = wilson_interval(second, n_second, critical=critical)
    value = first - second
    low = value - math.hypot(first - low_1, high_2 - second)
    high = value + math.hypot(high_1 - first, second - low_2)
    stderr = (high - low) / (2 * critical)
    return Estimate(value, stderr, low, high, n_first + n_second, "Newcombe 95 %")


def _is_binary(values: Sequence[float]) -> bool:
    return all(value in (0.0, 1.0) for value in values)
