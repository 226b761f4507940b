"""Agreement of raters: Krippendorff's alpha and percent agreement on shared battles, Cohen's kappa for two raters.

A vote names a contestant, not a side: sides are shuffled, so agreement on sides would measure nothing.
Sources: Krippendorff, Content Analysis (2018), chapter 12; Cohen (1960).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.domain.battles.votes import Label, VoteRecord
from backend.domain.statistics.estimates import Estimate, normal_quantile, percent, ratio_estimate, wilson_interval
from backend.errors import InvalidInput

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement of raters on items that at least two of them judged; None if undefined.

    `alpha` is 1 for perfect and 0 for chance agreement; undefined if only one label was ever used. `percent_agreement` is the share of
    equal labels among all pairs of votes on an item, `without_ties` the same among the votes that preferred a contestant.
    """

    alpha: Estimate | None
    percent_agreement: Estimate | None
    without_ties: Estimate | None
    num_items: int
    num_raters: int
    num_votes: int


def canonical_label(vote: VoteRecord) -> tuple[tuple[str, str, str], str]:
    """The item that a vote judges (prompt, contestants in order of name) and its label in that order: first, second, tie or both_bad."""
    first, second = sorted((vote.a, vote.b))
    if vote.winner not in Label.__members__:
        raise InvalidInput(f"The winner {vote.winner!r} is unknown.", remedy="Use A, B, TIE or BOTH_BAD.", field="winner")
    preferred = {Label.A.value: vote.a, Label.B.value: vote.b}.get(vote.winner)
    label = vote.winner.lower() if preferred is None else "first" if preferred == first else "second"
    return (vote.prompt, first, second), label


def vote_agreement(
    votes: Iterable[VoteRecord], *, both_bad_is_tie: bool = False, num_resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> Agreement:
    """Measure the raters' agreement. A rater who judged an item twice counts with the later vote. Intervals resample items.

    `both_bad_is_tie` reads "both bad" as a tie, as a rating does; without it they are different labels.
    """
    by_item: dict[tuple[str, str, str], dict[str, str]] = {}
    for vote in votes:
        item, label = canonical_label(vote)
        by_item.setdefault(item, {})[vote.rater] = "tie" if both_bad_is_tie and label == "both_bad" else label
    shared = [labels for labels in by_item.values() if len(labels) > 1]
    decisive = [[label for label in labels.values() if label in ("first", "second")] for labels in shared]
    units = [list(labels.values()) for labels in shared]
    return Agreement(
        alpha=krippendorff_alpha(units, num_resamples=num_resamples, seed=seed, level=level),
        percent_agreement=percent_agreement(units, level=level),
        without_ties=percent_agreement(decisive, level=level),
        num_items=len(shared),
        num_raters=len({rater for labels in shared for rater in labels}),
        num_votes=sum(len(labels) for labels in shared),
    )


def krippendorff_alpha(
    units: Iterable[Sequence[Hashable]], *, num_resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> Estimate | None:
    """Nominal alpha of units, each the labels that raters gave it; missing ones are absent, units with fewer than two are left out.

    alpha = 1 - (n - 1) * sum_u D_u / (n^2 - sum_c n_c^2), D_u = (m_u^2 - sum_c n_uc^2) / (m_u - 1). The interval resamples units.
    None if no unit has two labels, or only one label was ever used (there is no chance agreement to compare with).
    """
    counts = _label_counts(units)
    if not len(counts):
        return None
    sizes = counts.sum(1)
    disagreement = (sizes**2 - (counts**2).sum(1)) / (sizes - 1)
    value = float(_alpha(disagreement.sum(keepdims=True), counts.sum(0)[None, :])[0])
    if not np.isfinite(value):
        return None
    if len(counts) < 2:
        return Estimate(value, None, None, None, 1, "Krippendorff's alpha of one item: no interval")
    rng = np.random.default_rng(seed)
    draws = np.empty(num_resamples)
    shares = np.full(len(counts), 1 / len(counts))
    chunk = max(1, 4_000_000 // len(counts))
    for start in range(0, num_resamples, chunk):
        weights = rng.multinomial(len(counts), shares, size=min(chunk, num_resamples - start)).astype(np.float64)
        draws[start : start + len(weights)] = _alpha(weights @ disagreement, weights @ counts)
    draws = draws[np.isfinite(draws)]
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2])
    method = f"Krippendorff's alpha (nominal), bootstrap of items, {num_resamples} draws, {percent(level)}"
    return Estimate(value, float(draws.std(ddof=1)), float(low), float(high), len(counts), method)


def percent_agreement(units: Iterable[Sequence[Hashable]], *, level: float = 0.95) -> Estimate | None:
    """Share of equal labels among all pairs of labels on the same unit, with an interval over units; None without a pair."""
    counts = _label_counts(units)
    if not len(counts):
        return None
    sizes = counts.sum(1)
    return _within_unit(ratio_estimate((counts * (counts - 1)).sum(1), sizes * (sizes - 1), level=level), level=level)


Labels = Mapping[Hashable, Hashable] | Sequence[Hashable]


def cohen_kappa(first: Labels, second: Labels) -> float | None:
    """Kappa of two raters: labels by item (items that only one judged are left out), or two sequences in the same order.

    None if they share no item or chance agreement is 1 (both always gave the same single label).
    """
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        shared = [item for item in first if item in second]
        left, right = [first[item] for item in shared], [second[item] for item in shared]
    elif isinstance(first, Mapping) or isinstance(second, Mapping):
        raise TypeError("give two mappings or two sequences")
    else:
        left, right = list(first), list(second)
    if len(left) != len(right):
        raise InvalidInput(f"{len(left)} labels can't be compared with {len(right)}.", remedy="Give both raters' labels of the same items.")
    if not left:
        return None
    index = {label: code for code, label in enumerate(dict.fromkeys([*left, *right]))}
    table = np.zeros((len(index), len(index)))
    np.add.at(table, ([index[label] for label in left], [index[label] for label in right]), 1.0)
    table /= table.sum()
    chance = float(table.sum(0) @ table.sum(1))
    return None if chance >= 1.0 else float((np.trace(table) - chance) / (1 - chance))


def _label_counts(units: Iterable[Sequence[Hashable]]) -> FloatArray:
    """Units x labels: how many raters gave the unit this label; units with fewer than two labels are dropped."""
    pairable = [unit for unit in units if len(unit) > 1]
    index = {label: code for code, label in enumerate(dict.fromkeys(label for unit in pairable for label in unit))}
    rows = np.repeat(np.arange(len(pairable)), [len(unit) for unit in pairable])
    columns = np.array([index[label] for unit in pairable for label in unit], dtype=np.int64)
    counts = np.zeros((len(pairable), len(index)))
    np.add.at(counts, (rows, columns), 1.0)
    return counts


def _alpha(disagreement: FloatArray, totals: FloatArray) -> FloatArray:
    """Alpha of each resample, from summed disagreement (draws) and label totals (draws x labels); NaN where only one label occurs."""
    n = totals.sum(1)
    expected = n**2 - (totals**2).sum(1)
    alpha: FloatArray = np.where(expected > 0, 1 - (n - 1) * disagreement / np.where(expected > 0, expected, 1.0), np.nan)
    return alpha


def _within_unit(estimate: Estimate, *, level: float) -> Estimate:
    """Clip a share's interval to 0 to 1; if all units agree and the error would be 0, use Wilson's interval over units."""
    if estimate.value in (0.0, 1.0):
        low, high = wilson_interval(estimate.value, estimate.n, critical=normal_quantile(level))
        return Estimate(estimate.value, None, low, high, estimate.n, f"percent agreement, Wilson over items {percent(level)}")
    bounds = [None if bound is None else min(1.0, max(0.0, bound)) for bound in (estimate.low, estimate.high)]
    return Estimate(estimate.value, estimate.stderr, bounds[0], bounds[1], estimate.n, f"percent agreement, {estimate.method}")
