"""Agreement of raters' labels: percent agreement, Krippendorff's alpha, Gwet's AC1, Cohen's kappa.

Labels come as units, each the labels that raters gave it, or as a table of counts (units x labels). Alpha and kappa
collapse where one label dominates; AC1 does not. Sources: Krippendorff, Content Analysis (2018), chapter 12; Cohen
(1960); Gwet (2008), Br. J. Math. Stat. Psychol. 61.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.domain.statistics.estimates import (
    SMALLEST_WIDTH,
    Clusters,
    Estimate,
    cluster_codes,
    normal_quantile,
    ratio_estimate,
    wilson_interval,
)
from backend.domain.wording import percent

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Units = Iterable[Sequence[Hashable]] | FloatArray


@dataclass(frozen=True, slots=True)
class Resampling:
    """Interval by a bootstrap: clusters are drawn `num_resamples` times; 0 gives a number without an interval."""

    num_resamples: int = 1000
    seed: int = 0
    level: float = 0.95


THOUSAND = Resampling()


def krippendorff_alpha(
    units: Units, *, clusters: Clusters | None = None, resampling: Resampling = THOUSAND
) -> Estimate | None:
    """Nominal alpha; missing labels are absent, units with fewer than two are left out.

    alpha = 1 - (n - 1) * sum_u D_u / (n^2 - sum_c n_c^2), D_u = (m_u^2 - sum_c n_uc^2) / (m_u - 1). The interval
    resamples units, or clusters of them. None if no unit has two labels, or only one label was ever used (there is no
    chance agreement to compare with).
    """
    counts, codes = _label_counts(units, clusters)
    if not len(counts):
        return None
    sizes = counts.sum(1)
    disagreement = (sizes**2 - (counts**2).sum(1)) / (sizes - 1)
    columns = np.column_stack([disagreement, counts])
    return _resampled(
        columns, codes, _alpha, _disagree_by_labels, name="Krippendorff's alpha (nominal)", resampling=resampling
    )


def gwet_ac1(units: Units, *, clusters: Clusters | None = None, resampling: Resampling = THOUSAND) -> Estimate | None:
    """AC1: (p_a - p_e) / (1 - p_e), p_e = sum_c q_c (1 - q_c) / (K - 1).

    p_a averages the share of equal pairs over units with two labels, q_c the share of label c over all units. None if
    no unit has two labels, or only one label was ever used.
    """
    counts, codes = _label_counts(units, clusters, fewest=1)
    counts = counts[:, counts.any(0)]
    sizes = counts.sum(1)
    if counts.shape[1] < 2 or not (sizes > 1).any():
        return None
    pairs = np.where(sizes > 1, (counts * (counts - 1)).sum(1) / np.maximum(sizes * (sizes - 1), 1), 0.0)
    columns = np.column_stack([pairs, sizes > 1, np.ones(len(counts)), counts / sizes[:, None]])
    return _resampled(columns, codes, _ac1, _disagree, name="Gwet's AC1", resampling=resampling)


def pooled_kappa(
    pairs: Sequence[Sequence[Hashable]] | IntArray,
    *,
    clusters: Clusters | None = None,
    resampling: Resampling = THOUSAND,
) -> Estimate | None:
    """Cohen's kappa of two raters' labels, as pairs; the interval resamples pairs or clusters. None if undefined."""
    if not len(pairs):
        return None
    labels, count = cluster_codes(
        pairs.ravel() if isinstance(pairs, np.ndarray) else [label for pair in pairs for label in pair]
    )
    left, right = (np.eye(count)[labels[side::2]] for side in (0, 1))

    def kappa(sums: FloatArray) -> FloatArray:
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = sums / sums[:, 1:2]
            chance = (shares[:, 2 : 2 + count] * shares[:, 2 + count :]).sum(1)
            value: FloatArray = np.where(chance < 1, (shares[:, 0] - chance) / (1 - chance), np.nan)
        return value

    columns = np.column_stack([(left * right).sum(1), np.ones(len(pairs)), left, right])
    codes = cluster_codes(range(len(pairs)) if clusters is None else clusters)[0]
    return _resampled(columns, codes, kappa, _disagree, name="Cohen's kappa", resampling=resampling)


def percent_agreement(units: Units, *, clusters: Clusters | None = None, level: float = 0.95) -> Estimate | None:
    """Share of equal labels among all pairs of labels on the same unit, with an interval over units, or clusters of
    them.

    None without a pair. One cluster gives no interval.
    """
    counts, codes = _label_counts(units, clusters)
    if not len(counts):
        return None
    sizes = counts.sum(1)
    equal, pairs = (counts * (counts - 1)).sum(1), sizes * (sizes - 1)
    estimate = ratio_estimate(equal, pairs, clusters=None if clusters is None else codes, level=level)
    return _within_unit(estimate, units=int(codes.max()) + 1, level=level)


def _label_counts(units: Units, clusters: Clusters | None, *, fewest: int = 2) -> tuple[FloatArray, IntArray]:
    """Units x labels: raters who gave the unit this label, and the unit's cluster. Units with fewer than `fewest`
    labels are dropped.
    """
    counts = units if isinstance(units, np.ndarray) else _counted(list(units))
    names = cluster_codes(range(len(counts)) if clusters is None else clusters)[0]
    enough = counts.sum(1) >= fewest
    return counts[enough], cluster_codes(names[enough])[0]


def _counted(units: list[Sequence[Hashable]]) -> FloatArray:
    labels, count = cluster_codes([label for unit in units for label in unit])
    counts = np.zeros((len(units), count))
    np.add.at(counts, (np.repeat(np.arange(len(units)), [len(unit) for unit in units]), labels), 1.0)
    return counts


def _resampled(
    columns: FloatArray,
    codes: IntArray,
    statistic: Callable[[FloatArray], FloatArray],
    disagree: Callable[[FloatArray, float], FloatArray],
    *,
    name: str,
    resampling: Resampling,
) -> Estimate | None:
    """Estimate a function of the columns' sums, with the percentile interval of resampled clusters; None where it is
    undefined. Without a disagreement no draw varies, which is no certainty: then the lower end is the value with the
    largest share of disagreement that as many clusters could hide (Wilson), which `disagree` puts into the sums.
    """
    value = float(statistic(columns.sum(0)[None, :])[0])
    if not np.isfinite(value):
        return None
    num_clusters, num_resamples, level = int(codes.max()) + 1, resampling.num_resamples, resampling.level
    if num_clusters < 2:
        return Estimate(value, None, None, None, len(columns), f"{name}: one cluster gives no interval")
    if not num_resamples:
        return Estimate(value, None, None, None, len(columns), name)
    sums = np.column_stack([np.bincount(codes, column, num_clusters) for column in columns.T])
    rng, draws = np.random.default_rng(resampling.seed), np.empty(num_resamples)
    chunk = max(1, 4_000_000 // num_clusters)
    for start in range(0, num_resamples, chunk):
        size = min(chunk, num_resamples - start)
        weights = rng.multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters), size=size).astype(np.float64)
        draws[start : start + size] = statistic(weights @ sums)
    draws = draws[np.isfinite(draws)]
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2])
    if value > 1 - SMALLEST_WIDTH:
        least, _ = wilson_interval(1.0, num_clusters, critical=normal_quantile(level))
        low = max(-1.0, float(statistic(disagree(columns.sum(0)[None, :], 1 - least))[0]))
        units = f"{num_clusters} without a disagreement"
        return Estimate(
            value, None, low, 1.0, len(columns), f"{name}, Wilson over {units}, {percent(level, digits=None)}"
        )
    unit = "items" if num_clusters == len(columns) else f"{num_clusters} clusters"
    method = f"{name}, bootstrap of {unit}, {num_resamples} draws, {percent(level, digits=None)}"
    return Estimate(value, float(draws.std(ddof=1)), float(low), float(high), len(columns), method)


def _disagree(sums: FloatArray, share: float) -> FloatArray:
    """Return sums whose first column, the agreement of the second's units, lacks a share."""
    changed = sums.copy()
    changed[:, 0] = (1 - share) * sums[:, 1]
    return changed


def _disagree_by_labels(sums: FloatArray, share: float) -> FloatArray:
    """Return sums whose first column, the disagreement by label, is a share of the labels."""
    changed = sums.copy()
    changed[:, 0] = share * sums[:, 1:].sum(1)
    return changed


def _alpha(sums: FloatArray) -> FloatArray:
    """Alpha of each resample, from summed disagreement and label totals; NaN where only one label occurs."""
    disagreement, totals = sums[:, 0], sums[:, 1:]
    n = totals.sum(1)
    expected = n**2 - (totals**2).sum(1)
    alpha: FloatArray = np.where(
        expected > 0, 1 - (n - 1) * disagreement / np.where(expected > 0, expected, 1.0), np.nan
    )
    return alpha


def _ac1(sums: FloatArray) -> FloatArray:
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = sums[:, 3:] / sums[:, 2:3]
        chance = (shares * (1 - shares)).sum(1) / (shares.shape[1] - 1)
        value: FloatArray = (sums[:, 0] / sums[:, 1] - chance) / (1 - chance)
    return value


def _within_unit(estimate: Estimate, *, units: int, level: float) -> Estimate:
    """Clip a share's interval to 0 to 1; if all units agree and the error would be 0, use Wilson's interval over
    units, or the clusters that they come in.
    """
    if estimate.value in (0.0, 1.0):
        low, high = wilson_interval(estimate.value, units, critical=normal_quantile(level))
        return Estimate(
            estimate.value,
            None,
            low,
            high,
            estimate.n,
            f"percent agreement, Wilson over items {percent(level, digits=None)}",
        )
    bounds = [None if bound is None else min(1.0, max(0.0, bound)) for bound in (estimate.low, estimate.high)]
    return Estimate(
        estimate.value, estimate.stderr, bounds[0], bounds[1], estimate.n, f"percent agreement, {estimate.method}"
    )
