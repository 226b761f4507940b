"""Intervals of corpus metrics (BLEU, chrF, F1, MCC, perplexity) by resampling items, documents or clusters.

A corpus metric is a function of sums: matched and possible n-grams, a confusion table, nats and tokens. Resampling
therefore needs the sums alone: one matrix product gives those of all draws, and `statistic` turns them into values at
once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike

from backend.domain.statistics.estimates import Estimate, FloatArray, cluster_codes
from backend.domain.wording import percent
from backend.errors import InvalidInput

BLOCK = 4_000_000
"""Weights drawn at once (32 MB)."""
MAX_UNDEFINED = 0.05
"""Share of draws in which the metric may be undefined, as F1 without any positive, before there is no interval."""

Statistic = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True, eq=False)
class Resampled:
    """A metric's value, and its values in the draws of a bootstrap, of which interval and p value are made by one
    procedure.

    `left_out`: values without each unit in turn, for the accelerated interval; None for the percentile interval. Where
    the bootstrap gives no interval, `reason` says why, and `draws` is empty.
    """

    value: float
    draws: FloatArray
    left_out: FloatArray | None
    n: int
    kind: str
    reason: str = ""

    def interval(self, level: float) -> tuple[float, float]:
        """Return the interval: bias-corrected and accelerated, or of percentiles."""
        if self.left_out is not None:
            return _accelerated(self.value, self.draws, self.left_out, level=level)
        low, high = np.quantile(self.draws, [0.5 - level / 2, 0.5 + level / 2])
        return float(low), float(high)

    def estimate(self, level: float = 0.95) -> Estimate:
        """Return the value with its error and interval."""
        if self.reason:
            return Estimate(self.value, None, None, None, self.n, f"bootstrap of {self.reason}")
        name = "" if self.left_out is None else "BCa "
        method = f"bootstrap of {self.kind}, {len(self.draws)} draws, {name}{percent(level, digits=None)}"
        return Estimate(self.value, float(self.draws.std(ddof=1)), *self.interval(level), self.n, method)

    def p_value(self) -> float | None:
        """Return the p value of "the value is 0": 1 - the highest level whose interval excludes 0; None where the value
        never varies.

        So p is below 1 - level exactly where the interval of that level excludes 0, down to 2 / (draws + 1), the least
        that this many draws can tell. Found by halving; intervals grow with their level.
        """
        if self.reason or np.ptp(self.draws) == 0:
            return None

        def excludes(level: float) -> bool:
            low, high = self.interval(level)
            return low > 0 or high < 0

        least = 2 / (len(self.draws) + 1)
        if excludes(1 - least):
            return least
        low, high = 0.0, 1 - least
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if excludes(middle) else (low, middle)
        return 1 - low


def resample_corpus(
    parts: ArrayLike,
    statistic: Statistic,
    *,
    clusters: Sequence[Hashable] | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Resampled:
    """Resample a corpus metric.

    `parts`: one row of addends per item, shape (n, k). `statistic` maps sums of shape (draws, k) to values of shape
    (draws,), for instance `lambda s: 2 * s[:, 0] / (2 * s[:, 0] + s[:, 1])` for F1 of (true positives, errors). Whole
    `clusters` are drawn where they are given. The interval is the bias-corrected and accelerated one (Efron 1987, JASA
    82, 171-185), its acceleration from the jackknife. Without two units, or where more than 5 % of the draws leave the
    metric undefined, there is no interval.
    """
    table = np.asarray(parts, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or len(table) == 0 or not np.isfinite(table).all():
        raise InvalidInput(
            "There is nothing to resample: no items, or parts that are not numbers.",
            remedy="Evaluate at least one item.",
        )
    codes, count = cluster_codes(range(len(table)) if clusters is None else clusters)
    if len(codes) != len(table):
        raise InvalidInput(f"{len(codes)} cluster labels do not match {len(table)} items.", field="clusters")
    sums: FloatArray = np.column_stack([np.bincount(codes, column, count) for column in table.T]).astype(np.float64)
    total = sums.sum(axis=0)
    value = float(_evaluate(statistic, total[None, :])[0])
    kind = "items" if clusters is None else "clusters"
    none = np.zeros(0)
    if count < 2 or not math.isfinite(value):
        return Resampled(value, none, None, len(table), kind, f"{count} {kind}: no interval")
    draws = _evaluate(statistic, _resample(sums, num_resamples, np.random.default_rng(seed)))
    defined = draws[np.isfinite(draws)]
    if len(defined) < (1 - MAX_UNDEFINED) * num_resamples:
        return Resampled(
            value, none, None, len(table), kind, f"{kind}: undefined in {num_resamples - len(defined)} draws"
        )
    return Resampled(value, np.sort(defined), _evaluate(statistic, total - sums), len(table), kind)


def resample_difference(
    first: ArrayLike,
    second: ArrayLike,
    statistic: Statistic,
    *,
    clusters: Sequence[Hashable] | None = None,
    num_resamples: int = 1000,
) -> Resampled:
    """Resample a corpus metric's difference, second minus first, from parts of the same items, resampled together."""
    before, after = np.atleast_2d(np.asarray(first, float).T).T, np.atleast_2d(np.asarray(second, float).T).T
    if before.shape != after.shape:
        raise InvalidInput(
            f"Parts of shape {before.shape} can't be paired with {after.shape}.",
            remedy="Join both on their items first.",
        )
    width = before.shape[1]
    return resample_corpus(
        np.hstack([before, after]),
        lambda sums: statistic(sums[:, width:]) - statistic(sums[:, :width]),
        clusters=clusters,
        num_resamples=num_resamples,
    )


def resample_rows(
    rows: ArrayLike,
    *,
    statistic: Callable[[FloatArray], float],
    clusters: Sequence[Hashable] | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Resampled:
    """Resample a corpus metric that is not a function of sums: compute it again on rows (or whole clusters) drawn.

    `rows` has one row per item, of any width, for instance the counts that BLEU or F1 sum up; `statistic` gets such an
    array.
    """
    table = np.asarray(rows, dtype=np.float64)
    if table.ndim == 0 or len(table) == 0:
        raise InvalidInput("There is nothing to resample: no items.", remedy="Evaluate at least one item.")
    value = float(statistic(table))
    codes, num_clusters = cluster_codes(range(len(table)) if clusters is None else clusters)
    kind = "items" if clusters is None else "clusters"
    if num_clusters < 2:
        return Resampled(value, np.zeros(0), None, len(table), kind, "one cluster: no interval")
    members = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
    rng = np.random.default_rng(seed)
    draws = np.empty(num_resamples)
    for index in range(num_resamples):
        chosen = rng.integers(num_clusters, size=num_clusters)
        picked = chosen if num_clusters == len(table) else np.concatenate([members[cluster] for cluster in chosen])
        draws[index] = statistic(table[picked])
    return Resampled(value, np.sort(draws), None, len(table), kind)


def _evaluate(statistic: Statistic, sums: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(statistic(sums), dtype=np.float64)


def _resample(sums: FloatArray, num_resamples: int, rng: np.random.Generator) -> FloatArray:
    """Draw as many units as there are, with replacement, and add up their sums: shape (draws, k)."""
    count = len(sums)
    block = max(1, BLOCK // count)
    drawn = []
    for at in range(0, num_resamples, block):
        rows = min(block, num_resamples - at)
        picks = rng.integers(count, size=(rows, count)) + np.arange(rows)[:, None] * count
        drawn.append(np.bincount(picks.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64) @ sums)
    return np.concatenate(drawn)


def _accelerated(value: float, draws: FloatArray, left_out: FloatArray, *, level: float) -> tuple[float, float]:
    """Return the BCa interval: quantiles of the draws, shifted for bias and skew."""
    below = (np.sum(draws < value) + 0.5 * np.sum(draws == value)) / len(draws)
    if not 0 < below < 1 or not np.isfinite(left_out).all():
        low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2])
        return float(low), float(high)
    bias = scipy.special.ndtri(below)
    gaps = left_out.mean() - left_out
    spread = float((gaps**2).sum()) ** 1.5
    skew = float((gaps**3).sum()) / (6 * spread) if spread > 0 else 0.0
    edges = bias + scipy.special.ndtri([0.5 - level / 2, 0.5 + level / 2])
    low, high = np.quantile(draws, scipy.special.ndtr(bias + edges / (1 - skew * edges)))
    return float(low), float(high)
