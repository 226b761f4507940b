"""Agreement of a benchmark with the raters on the order of contestants: Kendall's tau-b and the share of pairs that
both order alike. Pure.

With few contestants the tau of a benchmark is nearly free to be anything: five contestants have ten pairs. So intervals
come from resampling contestants, and below five nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import scipy

MIN_CONTESTANTS = 5
NUM_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class OfflineAgreement:
    """A benchmark beside the raters. `alike` of `pairs` are ordered as the ratings are; ties on either side are left
    out of both.

    `tau` and its interval are None for fewer than five contestants, and where all scores or ratings are equal.
    """

    benchmark: str
    metric: str
    contestants: int
    pairs: int
    alike: int
    tau: float | None = None
    tau_low: float | None = None
    tau_high: float | None = None

    @property
    def is_enough(self) -> bool:
        """Return whether there are enough contestants to say anything."""
        return self.contestants >= MIN_CONTESTANTS

    @property
    def sentence(self) -> str:
        """The conclusion in a sentence."""
        if not self.is_enough:
            return (
                f"{self.benchmark}: {self.contestants} contestants have scores, too few to tell; at least"
                f" {MIN_CONTESTANTS} are needed."
            )
        if self.tau is None:
            return f"{self.benchmark}: all scores are equal."
        interval = f" [{self.tau_low:+.2f}, {self.tau_high:+.2f}]" if self.tau_low is not None else ""
        order = f"{self.alike} of {self.pairs} pairs are ordered as by the raters"
        return f"{self.benchmark}: rank correlation {self.tau:+.2f}{interval}; {order}."


def offline_agreement(
    ratings: Mapping[str, float],
    scores: Mapping[str, float],
    *,
    benchmark: str,
    metric: str,
    lower_is_better: bool = False,
) -> OfflineAgreement:
    """Compare a benchmark's scores with the ratings over the contestants that have both.

    tau-b (Kendall 1938, Biometrika 30) with a percentile interval over 2,000 resamples of contestants.
    """
    names = sorted(set(ratings) & set(scores))
    sign = -1.0 if lower_is_better else 1.0
    rated = np.array([ratings[name] for name in names])
    scored = sign * np.array([scores[name] for name in names])
    orders = [
        (np.sign(rated[i] - rated[j]), np.sign(scored[i] - scored[j])) for i, j in combinations(range(len(names)), 2)
    ]
    clear = [(first, second) for first, second in orders if first and second]
    alike = sum(first == second for first, second in clear)
    base = OfflineAgreement(benchmark, metric, len(names), len(clear), int(alike))
    if len(names) < MIN_CONTESTANTS or len(set(scored.tolist())) < 2 or len(set(rated.tolist())) < 2:
        return base
    tau = float(scipy.stats.kendalltau(rated, scored).statistic)
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(NUM_RESAMPLES):
        drawn = rng.integers(len(names), size=len(names))
        if len(set(rated[drawn].tolist())) > 1 and len(set(scored[drawn].tolist())) > 1:
            draws.append(float(scipy.stats.kendalltau(rated[drawn], scored[drawn]).statistic))
    low, high = np.quantile(draws, (0.025, 0.975))
    return replace(base, tau=tau, tau_low=float(low), tau_high=float(high))
