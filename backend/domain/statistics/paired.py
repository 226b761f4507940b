"""Comparisons of two checkpoints on the same items."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike

from backend.domain.statistics.estimates import (
    Estimate,
    cluster_codes,
    clustered_mean_estimate,
    finite_scores,
    mean_estimate,
    normal_quantile,
    percent,
)
from backend.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """Second minus first on the same items, with the p value of "no difference". Wins and losses are the second's."""

    n: int
    difference: Estimate
    p_value: float | None
    wins: int
    losses: int
    ties: int
    method: str


def paired_difference(
    first: ArrayLike, second: ArrayLike, *, clusters: Sequence[Hashable] | None = None, level: float = 0.95
) -> PairedComparison:
    """Compare two checkpoints on the same items in the same order: second minus first.

    Scores of 0 and 1 without clusters: exact McNemar p and the Bonett-Price (2012) interval, which does not collapse without discordant
    pairs.
    Otherwise: t test and t interval on the differences, clustered if `clusters` is given.
    """
    before, after = finite_scores(first), finite_scores(second)
    if len(before) != len(after):
        raise InvalidInput(f"{len(before)} scores can't be paired with {len(after)}.", remedy="Join both evaluations on their items first.")
    gaps = after - before
    wins, losses = int((gaps > 0).sum()), int((gaps < 0).sum())
    ties = len(gaps) - wins - losses
    if clusters is None and np.isin(before, (0.0, 1.0)).all() and np.isin(after, (0.0, 1.0)).all():
        return PairedComparison(
            len(gaps), _bonett_price(wins, losses, len(gaps), level=level), mcnemar(wins, losses), wins, losses, ties, "exact McNemar"
        )
    if clusters is None:
        difference, df, method = mean_estimate(gaps, level=level), len(gaps) - 1, "paired t test"
    else:
        difference, df, method = (
            clustered_mean_estimate(gaps, clusters, level=level),
            cluster_codes(clusters)[1] - 1,
            "paired t test, clustered",
        )
    if difference.stderr is None:
        return PairedComparison(
            len(gaps), difference, None, wins, losses, ties, f"{method}: too few {'items' if clusters is None else 'clusters'}"
        )
    if difference.stderr <= 1e-12 * max(1.0, abs(difference.value)):
        # All differences are equal: t is 0/0 or infinite, so the sign test is used.
        return PairedComparison(len(gaps), difference, mcnemar(wins, losses), wins, losses, ties, "exact sign test (all differences equal)")
    p_value = float(2 * scipy.stats.t.sf(abs(difference.value / difference.stderr), df))
    return PairedComparison(len(gaps), difference, p_value, wins, losses, ties, method)


def mcnemar(wins: int, losses: int) -> float:
    """Exact two-sided p value of the discordant pairs (McNemar 1947, exact binomial form): `mcnemar(10, 2)` is 0.03857."""
    if wins < 0 or losses < 0:
        raise InvalidInput(f"Counts can't be negative: {wins} and {losses}.")
    return float(min(1.0, 2 * scipy.stats.binom.cdf(min(wins, losses), wins + losses, 0.5))) if wins + losses else 1.0


def _bonett_price(wins: int, losses: int, n: int, *, level: float) -> Estimate:
    up, down = (wins + 1) / (n + 2), (losses + 1) / (n + 2)
    stderr = math.sqrt(max(up + down - (up - down) ** 2, 0.0) / (n + 2))
    margin = normal_quantile(level) * stderr
    return Estimate(
        (wins - losses) / n, stderr, max(-1.0, up - down - margin), min(1.0, up - down + margin), n, f"Bonett-Price {percent(level)}"
    )
