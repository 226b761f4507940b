"""Comparisons of two checkpoints on the same items: difference, interval and p value of one procedure.

Either number may be used to decide: p is below 1 - level exactly where the interval excludes 0 (a property test holds
every count to it).

p values of several comparisons are adjusted for their number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike

from backend.domain.statistics.estimates import (
    Estimate,
    FloatArray,
    cluster_codes,
    clustered_mean_estimate,
    finite_scores,
    is_binary,
    macro_average,
    mean_estimate,
    normal_quantile,
    ratio_estimate,
    student_quantile,
)
from backend.domain.wording import percent
from backend.errors import InvalidInput

MAX_QUANTILE = 6.0
"""Standard errors up to which an interval is inverted: p values below 2e-9 are given as that."""


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """Second minus first on the same items, with the p value of "no difference". Wins and losses are the second's.

    `p_value` is None where the data can't tell chance from difference. `clusters` counts them; None where each item
    stands alone.
    """

    n: int
    difference: Estimate
    p_value: float | None
    wins: int
    losses: int
    ties: int
    method: str
    clusters: int | None = None


def paired_difference(
    first: ArrayLike, second: ArrayLike, *, clusters: Sequence[Hashable] | None = None, level: float = 0.95
) -> PairedComparison:
    """Compare two checkpoints on the same items in the same order: second minus first.

    Scores of 0 and 1 without clusters: exact McNemar and its interval (`difference_interval`). Otherwise Student's t on
    the differences, over clusters where `clusters` is given. Differences without variance are decided by
    `equal_differences`.
    """
    before, after = finite_scores(first), finite_scores(second)
    if len(before) != len(after):
        raise InvalidInput(
            f"{len(before)} scores can't be paired with {len(after)}.",
            remedy="Join both evaluations on their items first.",
        )
    gaps = after - before
    wins, losses = int((gaps > 0).sum()), int((gaps < 0).sum())
    counts = (wins, losses, len(gaps) - wins - losses)
    if clusters is None and is_binary(before) and is_binary(after):
        difference = difference_interval(wins, losses, len(gaps), level=level)
        return PairedComparison(len(gaps), difference, mcnemar(wins, losses), *counts, "exact McNemar")
    if clusters is None:
        difference, units, method = mean_estimate(gaps, level=level), len(gaps), "paired t test"
    else:
        difference, units = clustered_mean_estimate(gaps, clusters, level=level), cluster_codes(clusters)[1]
        method = "paired t test, clustered"
    bounded = bool(min(before.min(), after.min()) >= 0 and max(before.max(), after.max()) <= 1)
    difference, p_value, method = _decide(difference, gaps, units=units, bounded=bounded, level=level, method=method)
    return PairedComparison(len(gaps), difference, p_value, *counts, method, None if clusters is None else units)


def paired_ratio(
    gaps: ArrayLike, sizes: ArrayLike, *, clusters: Sequence[Hashable] | None = None, level: float = 0.95
) -> PairedComparison:
    """Compare two corpus ratios of equal denominators, such as bits per byte: summed `gaps` (second minus first) over
    summed `sizes`.
    """
    differences = finite_scores(gaps)
    difference = ratio_estimate(differences, sizes, clusters=clusters, level=level)
    units = len(differences) if clusters is None else cluster_codes(clusters)[1]
    method = "paired ratio estimator, t test" + ("" if clusters is None else ", clustered")
    difference, p_value, method = _decide(
        difference, differences, units=units, bounded=False, level=level, method=method
    )
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    ties = len(differences) - wins - losses
    return PairedComparison(
        len(differences), difference, p_value, wins, losses, ties, method, None if clusters is None else units
    )


def paired_macro(parts: Sequence[Callable[[float], PairedComparison]], *, level: float = 0.95) -> PairedComparison:
    """Compare two macro averages: the mean of the differences of fixed subgroups, each of which counts the same.

    `parts` are the subgroups' comparisons as functions of the level. The interval is made of theirs (`macro_average`);
    the p value is the level of error at which it reaches 0, None where a subgroup has no interval.
    """
    compared = [part(level) for part in parts]
    difference = macro_average([one.difference for one in compared])
    clusters = [one.clusters for one in compared]
    counts = (sum(one.wins for one in compared), sum(one.losses for one in compared), sum(one.ties for one in compared))
    method = f"macro over {len(parts)} subgroups, each by {' or '.join(sorted({one.method for one in compared}))}"
    known = [one for one in clusters if one is not None]
    return PairedComparison(
        difference.n,
        difference,
        _inverted(parts, difference),
        *counts,
        method,
        sum(known) if len(known) == len(clusters) else None,
    )


def _inverted(parts: Sequence[Callable[[float], PairedComparison]], difference: Estimate) -> float | None:
    """Return the level of error at which the interval of a macro average reaches 0."""
    if difference.low is None or difference.high is None:
        return None
    if difference.value == 0:
        return 1.0

    def distance(quantile: float) -> float:
        interval = macro_average([part(1 - 2 * float(scipy.special.ndtr(-quantile))).difference for part in parts])
        near = interval.low if difference.value > 0 else interval.high
        return 0.0 if near is None else math.copysign(1.0, difference.value) * near

    if distance(MAX_QUANTILE) > 0:
        return 2 * float(scipy.special.ndtr(-MAX_QUANTILE))
    smallest = 1e-6
    if distance(smallest) <= 0:
        return 1.0
    return 2 * float(scipy.special.ndtr(-scipy.optimize.brentq(distance, smallest, MAX_QUANTILE, xtol=1e-5)))


def mcnemar(wins: int, losses: int) -> float:
    """Exact two-sided p value of discordant pairs (McNemar 1947, exact binomial): `mcnemar(10, 2)` is 0.03857."""
    if wins < 0 or losses < 0:
        raise InvalidInput(f"Counts can't be negative: {wins} and {losses}.")
    return float(min(1.0, 2 * scipy.special.bdtr(min(wins, losses), wins + losses, 0.5))) if wins + losses else 1.0


def difference_interval(wins: int, losses: int, n: int, *, level: float = 0.95) -> Estimate:
    """Return the difference of two paired proportions with the interval that exact McNemar inverts to.

    The wider of two: the differences that the score test does not reject (Tango 1998, Statistics in Medicine 17,
    891-908), and Clopper-Pearson's interval of the wins among the discordant pairs, in units of their share. The second
    excludes 0 exactly where McNemar's p is below 1 - level; the first holds its level for differences far from 0, and
    without any discordant pair.
    """
    if n < 1 or wins + losses > n:
        raise InvalidInput(f"{wins} wins and {losses} losses of {n} items are impossible.", field="n")
    discordant, value = wins + losses, (wins - losses) / n
    low, high = _tango(wins, losses, n, critical=normal_quantile(level))
    tail = (1 - level) / 2
    share_low = float(scipy.special.betaincinv(wins, losses + 1, tail)) if wins else 0.0
    share_high = float(scipy.special.betaincinv(wins + 1, losses, 1 - tail)) if losses else 1.0
    low, high = min(low, (2 * share_low - 1) * discordant / n), max(high, (2 * share_high - 1) * discordant / n)
    stderr = math.sqrt(max(discordant / n - value**2, 0.0) / n)
    if stderr == 0:  # no item, or every item, changed the same way: the plug-in error is 0, which is false
        stderr = (high - low) / (2 * normal_quantile(level))
    return Estimate(value, stderr, low, high, n, f"score and exact binomial, {percent(level, digits=None)}")


def equal_differences(difference: float, n: int, *, level: float = 0.95) -> tuple[float, float, float]:
    """Return (low, high, p) of a mean difference of scores within [0, 1] where each of `n` items or clusters differs by
    the same.

    No variance is no certainty: with chance (1 - level)/2 on each side, a share of up to u = 1 - ((1 - level)/2)^(1/n)
    of the items differs otherwise (Clopper-Pearson's bound of 0 in n, about 3.7/n), by as much as -1 or +1. The p value
    is the level at which that interval reaches 0; differences of 0 have p = 1, of 1 the sign test's.
    """
    unseen = 1 - ((1 - level) / 2) ** (1 / n)
    p_value = min(1.0, 2 * (1 + abs(difference)) ** -n)
    return difference - unseen * (1 + difference), difference + unseen * (1 - difference), p_value


def _decide(
    difference: Estimate, gaps: FloatArray, *, units: int, bounded: bool, level: float, method: str
) -> tuple[Estimate, float | None, str]:
    """Return the difference with its interval, its p value and the method: Student's t, unless without variance."""
    if difference.stderr is None:
        return difference, None, f"{method}: too few {'clusters' if 'clustered' in method else 'items'}"
    if difference.stderr > 1e-12 * max(1.0, float(np.abs(gaps).max())):
        return difference, float(2 * scipy.special.stdtr(units - 1, -abs(difference.value / difference.stderr))), method
    if not bounded:
        method = f"{method}: equal differences give no variance to judge by"
        return Estimate(difference.value, None, None, None, difference.n, method), None, method
    low, high, p_value = equal_differences(difference.value, units, level=level)
    method = f"exact bound for equal differences, {percent(level, digits=None)}"
    stderr = (high - low) / (2 * student_quantile(level, df=max(units - 1, 1)))
    return Estimate(difference.value, stderr, low, high, difference.n, method), p_value, method


def _tango(wins: int, losses: int, n: int, *, critical: float) -> tuple[float, float]:
    """Invert the score test of "the difference is delta", its nuisance share estimated under that hypothesis."""

    def statistic(delta: float) -> float:
        linear = -wins - losses + (2 * n - wins + losses) * delta
        share = (math.sqrt(max(linear**2 + 8 * n * losses * delta * (1 - delta), 0.0)) - linear) / (4 * n)
        variance = n * (2 * share + delta * (1 - delta))
        return (
            (wins - losses - n * delta) / math.sqrt(variance)
            if variance > 0
            else math.copysign(math.inf, wins - losses - n * delta)
        )

    value = (wins - losses) / n
    low = _root(lambda delta: statistic(delta) - critical, -1.0, value)
    high = _root(lambda delta: statistic(delta) + critical, value, 1.0)
    return low, high


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Halve until the sign change of a falling function is enclosed to 1e-12; an end where there is none."""
    for _ in range(42):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) > 0 else (low, middle)
    return (low + high) / 2


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p values, in the order given: controls the chance of any false claim."""
    values = _p_values(p_values)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    return [float(value) for value in adjusted]


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's (1995) adjusted p values, in the order given: controls the share of false claims."""
    values = _p_values(p_values)
    return [float(value) for value in scipy.stats.false_discovery_control(values)] if len(values) else []


def _p_values(p_values: Sequence[float]) -> FloatArray:
    values = np.asarray(p_values, dtype=np.float64)
    if values.size and not ((values >= 0) & (values <= 1)).all():
        raise InvalidInput(f"A p value lies between 0 and 1; got {list(p_values)}.", field="p_values")
    return values
