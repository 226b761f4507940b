"""Intervals of quantiles, and of the difference of two medians, without a distribution assumed. Needs no numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

LEVEL = 0.95
"""Level of every interval that states no other."""
MIN_VALUES = 10
"""Values a group needs for the interval of a difference of medians."""


def nearest_rank(ordered: Sequence[float], quantile: float) -> float:
    """Return the value of rank ceil(q x n) of ascending values."""
    return ordered[max(1, math.ceil(quantile * len(ordered))) - 1]


def quantile_interval(ordered: Sequence[float], quantile: float) -> tuple[float, float] | None:
    """Return the interval of a quantile between two order statistics of ascending, independent values (Hahn and Meeker,
    Statistical Intervals, 1991, section 5.2): exact, and at least as wide as its level. None where there are too few
    values for a bound on each side.
    """
    n, tail = len(ordered), (1 - LEVEL) / 2
    lower, upper = 0, n + 1
    below = 0.0  # P(Bin(n, q) <= rank - 1), for ascending ranks
    for rank in range(1, n + 1):
        below += _binomial(rank - 1, n, quantile)
        if below <= tail:
            lower = rank
        if below >= 1 - tail:
            upper = rank
            break
    return None if lower < 1 or upper > n else (ordered[lower - 1], ordered[upper - 1])


def median_difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float] | None:
    """Return the difference of two groups' medians with its interval: first minus second, low, high. Groups are
    ascending and independent.

    Price and Bonett, Distribution-free confidence intervals for difference and ratio of medians, J. Stat. Comput.
    Simul. 72 (2002): the standard error of a median is the distance of two order statistics over twice their normal
    quantile. None below 10 values a group.
    """
    if min(len(first), len(second)) < MIN_VALUES:
        return None
    difference = _median(first) - _median(second)
    half = NormalDist().inv_cdf(0.5 + LEVEL / 2) * math.hypot(_median_error(first), _median_error(second))
    return difference, difference - half, difference + half


def _median(ordered: Sequence[float]) -> float:
    n = len(ordered)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


def _median_error(ordered: Sequence[float]) -> float:
    n = len(ordered)
    rank = max(1, round((n + 1) / 2 - math.sqrt(n)))
    below = math.fsum(_binomial(k, n, 0.5) for k in range(rank))
    return (ordered[n - rank] - ordered[rank - 1]) / (2 * NormalDist().inv_cdf(1 - below))


def _binomial(k: int, n: int, p: float) -> float:
    log = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(p) + (n - k) * math.log1p(-p)
    return math.exp(log)
