"""Ranks of several checkpoints that answered the same items: who shares first place, and between which places each may
stand.

Comparing everyone with the observed best by itself is wrong: the best of equals is the luckiest, and someone loses a
shared first place in 8.6 % of cases with five equal checkpoints and in 21 % with sixteen, at a nominal 5 %. Here all
differences are judged by one joint distribution instead.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from backend.domain.statistics.estimates import FloatArray, cluster_codes
from backend.domain.statistics.quantiles import LEVEL
from backend.errors import InvalidInput

Float32Array = NDArray[np.float32]

DRAWS = 4999
MANY_UNITS = 2000
"""From this many items or clusters on, sums under random signs are drawn from their limit, the normal distribution:
within Monte-Carlo error of the same bars, and 50 checkpoints on 10,000 items take 0.2 s instead of 1.5 s
(docs/benchmarks/coverage.md).
"""
BLOCK = 8_000_000
ROUNDING = 1e-5
"""Draws this close to the observed statistic count as reaching it: equal sums differ by rounding (single precision)."""


@dataclass(frozen=True, slots=True)
class JointRanking:
    """Ranks in the order of the columns. `p_first`: adjusted p value of "shares first place"; below 1 - level it is
    denied.

    `rank_low` and `rank_high` enclose each checkpoint's rank, all of them together with chance `level`. `n` counts
    items, `clusters` the units whose signs were drawn (None: items).
    """

    p_first: tuple[float, ...]
    rank_low: tuple[int, ...]
    rank_high: tuple[int, ...]
    n: int
    clusters: int | None
    num_draws: int


def rank_jointly(
    scores: ArrayLike,
    *,
    clusters: Sequence[Hashable] | None = None,
    lower_is_better: bool = False,
    num_draws: int = DRAWS,
    seed: int = 0,
) -> JointRanking:
    """Rank checkpoints by `scores` of shape (items, checkpoints), of which the sum decides.

    Every pair's statistic is its summed difference over the root of its summed squares, by item or cluster. Its joint
    null distribution comes from flipping the sign of whole items (or clusters), which leaves the denominators as they
    are: with two checkpoints and 0/1 scores that is exact McNemar. First place is tested by steps down (Romano and Wolf
    2005, JASA 100, 94-108): the statistic of a checkpoint is the largest lead that any other has on it; those denied
    leave the set whose largest statistic sets the bar. The chance that any of the truly best is denied is at most 1 -
    LEVEL. Rank intervals come from the pairs that differ by the largest of all (Al Mohamad, Goeman and van Zwet 2022,
    Biometrika 109, 703-720). Raises InvalidInput for fewer than two checkpoints or items.
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] < 2 or table.shape[1] < 2 or not np.isfinite(table).all():
        raise InvalidInput(
            "A ranking needs at least two checkpoints with numbers on two shared items.", remedy="Evaluate more items."
        )
    units = _deviations(-table if lower_is_better else table, clusters)
    moments = units.T @ units
    spread = np.sqrt(np.maximum(np.diag(moments)[:, None] + np.diag(moments)[None, :] - 2 * moments, 0.0))
    spread[spread <= 1e-9 * max(float(spread.max()), 1e-300)] = np.inf  # the same on every item: no lead at all
    sums = units.sum(axis=0)
    leads = (sums[None, :] - sums[:, None]) / spread  # [i, j]: lead of j on i
    flipped = _flip(units, moments, num_draws, seed)
    worst = _largest_leads(flipped, spread)
    return JointRanking(
        _step_down(leads.max(axis=1), worst),
        *_rank_intervals(leads, worst.max(axis=1)),
        n=len(table),
        clusters=None if clusters is None else len(units),
        num_draws=num_draws,
    )


def _deviations(table: FloatArray, clusters: Sequence[Hashable] | None) -> FloatArray:
    """Return scores less the item's mean, which no difference depends on, summed by cluster."""
    centred: FloatArray = table - table.mean(axis=1, keepdims=True)
    if clusters is None:
        return centred
    if len(clusters) != len(table):
        raise InvalidInput(f"{len(clusters)} cluster labels do not match {len(table)} items.", field="clusters")
    codes, count = cluster_codes(clusters)
    return np.column_stack([np.bincount(codes, column, count) for column in centred.T]).astype(np.float64)


def _flip(units: FloatArray, moments: FloatArray, draws: int, seed: int) -> Float32Array:
    """Return sums under random signs, shape (draws, checkpoints). `moments` is their covariance."""
    rng, single = np.random.default_rng(seed), units.astype(np.float32)
    if len(units) >= MANY_UNITS:
        variances, axes = np.linalg.eigh(moments)
        normal = rng.standard_normal((draws, len(moments)), dtype=np.float32)
        factor: Float32Array = (axes * np.sqrt(np.maximum(variances, 0.0))).T.astype(np.float32)
        return np.asarray(normal @ factor, dtype=np.float32)
    block = max(1, BLOCK // len(units))
    parts = []
    for at in range(0, draws, block):
        rows = min(block, draws - at)
        bits = np.unpackbits(
            rng.integers(0, 256, size=(rows, -(-len(units) // 8)), dtype=np.uint8), axis=1, count=len(units)
        )
        parts.append(2 * (bits.astype(np.float32) @ single) - single.sum(axis=0))
    return np.concatenate(parts)


def _largest_leads(flipped: Float32Array, spread: FloatArray) -> Float32Array:
    """Return the largest lead that any other has on each checkpoint, draw by draw."""
    worst = np.empty_like(flipped)
    inverse = (1 / spread).astype(np.float32)
    for i in range(flipped.shape[1]):
        worst[:, i] = ((flipped - flipped[:, [i]]) * inverse[i]).max(axis=1)
    return worst


def _step_down(observed: FloatArray, worst: Float32Array) -> tuple[float, ...]:
    order = np.argsort(-observed, kind="stable")
    # the largest over this one and all that lag less
    bars = np.maximum.accumulate(worst[:, order[::-1]], axis=1)[:, ::-1]
    reached = (bars >= observed[order] - ROUNDING).sum(axis=0)
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate((reached + 1) / (len(worst) + 1))
    return tuple(float(p) if observed[i] > 0 else 1.0 for i, p in enumerate(adjusted))


def _rank_intervals(leads: FloatArray, largest: Float32Array) -> tuple[tuple[int, ...], tuple[int, ...]]:
    bar = np.sort(largest)[int(np.ceil(LEVEL * (len(largest) + 1))) - 1]
    ahead = leads > bar + ROUNDING
    low, high = 1 + ahead.sum(axis=1), len(leads) - ahead.sum(axis=0)
    return tuple(int(rank) for rank in low), tuple(int(rank) for rank in high)
