"""Intervals of corpus metrics by resampling documents or clusters."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from backend.domain.statistics.estimates import Estimate, cluster_codes, percent
from backend.errors import InvalidInput


def bootstrap_interval(
    rows: ArrayLike,
    *,
    statistic: Callable[[NDArray[np.float64]], float],
    clusters: Sequence[Hashable] | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Percentile bootstrap of a corpus metric: draw rows (or whole clusters) with replacement and compute the metric again.

    `rows` has one row per item, of any width, for instance the counts that BLEU or F1 sum up; `statistic` gets such an array.
    """
    table = np.asarray(rows, dtype=np.float64)
    if table.ndim == 0 or len(table) == 0:
        raise InvalidInput("There is nothing to resample: no items.", remedy="Evaluate at least one item.")
    value = float(statistic(table))
    codes, num_clusters = cluster_codes(range(len(table)) if clusters is None else clusters)
    if num_clusters < 2:
        return Estimate(value, None, None, None, len(table), "bootstrap of one cluster: no interval")
    members = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
    rng = np.random.default_rng(seed)
    draws = np.empty(num_resamples)
    for index in range(num_resamples):
        chosen = rng.integers(num_clusters, size=num_clusters)
        picked = chosen if num_clusters == len(table) else np.concatenate([members[cluster] for cluster in chosen])
        draws[index] = statistic(table[picked])
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2])
    kind = "items" if clusters is None else "clusters"
    return Estimate(
        value,
        float(draws.std(ddof=1)),
        float(low),
        float(high),
        len(table),
        f"bootstrap of {kind}, {num_resamples} draws, {percent(level)}",
    )
