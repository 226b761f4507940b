"""Agreement of raters, and of a judge with raters: percent agreement with and without ties, Krippendorff's alpha, Gwet's AC1, kappa.

A vote names a contestant, not a side: sides are shuffled, so agreement on sides would measure nothing. Pairs of votes on the same battle
are counted as in MT-bench (Zheng et al. 2023, arXiv 2306.05685, table 5), which the definition reproduces. Intervals resample prompts.
Alpha and kappa collapse where one label dominates; AC1 does not.
Sources: Krippendorff, Content Analysis (2018), chapter 12; Cohen (1960); Gwet (2008), Br. J. Math. Stat. Psychol. 61.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.domain.battles.votes import Label, VoteRecord
from backend.domain.statistics.estimates import Estimate, normal_quantile, percent, ratio_estimate, share_estimate, wilson_interval
from backend.errors import InvalidInput

FloatArray = NDArray[np.float64]
DECISIVE = {"first", "second"}


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement of raters on items that at least two of them judged; None if undefined.

    `alpha` is 1 for perfect and 0 for chance agreement; undefined if only one label was ever used. `percent_agreement` is the share of
    equal labels among all `num_pairs` pairs of votes on an item, `without_ties` the same among the `num_decisive_pairs` of votes that
    preferred a contestant.
    """

    alpha: Estimate | None
    ac1: Estimate | None
    percent_agreement: Estimate | None
    num_pairs: int
    without_ties: Estimate | None
    num_decisive_pairs: int
    num_items: int
    num_raters: int
    num_votes: int


@dataclass(frozen=True, slots=True)
class JudgeAgreement:
    """Agreement of a judge with raters: pairs of its label and a rater's vote on the same item.

    `flips` is the share of items on which the judge, asked in both orders, contradicted itself; its label there is a tie. None if it was
    not asked twice.
    """

    judge: str
    percent_agreement: Estimate | None
    num_pairs: int
    without_ties: Estimate | None
    num_decisive_pairs: int
    kappa: Estimate | None
    ac1: Estimate | None
    flips: Estimate | None
    num_items: int


Item = tuple[str, str, str, str]
"""Prompt, turn, and contestants in order of name."""


def canonical_label(vote: VoteRecord) -> tuple[Item, str]:
    """The item that a vote judges, and its label in the order of names: first, second, tie or both_bad."""
    first, second = sorted((vote.a, vote.b))
    if vote.winner not in Label.__members__:
        raise InvalidInput(f"The winner {vote.winner!r} is unknown.", remedy="Use A, B, TIE or BOTH_BAD.", field="winner")
    preferred = {Label.A.value: vote.a, Label.B.value: vote.b}.get(vote.winner)
    label = vote.winner.lower() if preferred is None else "first" if preferred == first else "second"
    return (vote.prompt, vote.turn, first, second), label


def labels_by_item(votes: Iterable[VoteRecord], *, both_bad_is_tie: bool = False) -> dict[Item, dict[str, str]]:
    """Return each item's labels by rater; a rater who judged it twice counts with the later vote. Identical answers are left out."""
    by_item: dict[Item, dict[str, str]] = {}
    for vote in votes:
        if not vote.identical:
            item, label = canonical_label(vote)
            by_item.setdefault(item, {})[vote.rater] = "tie" if both_bad_is_tie and label == "both_bad" else label
    return by_item


def vote_agreement(
    votes: Iterable[VoteRecord], *, both_bad_is_tie: bool = False, num_resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> Agreement:
    """Measure the raters' agreement. A rater who judged an item twice counts with the later vote. Intervals resample prompts.

    `both_bad_is_tie` reads "both bad" as a tie, as a rating does; without it they are different labels.
    """
    shared = {item: labels for item, labels in labels_by_item(votes, both_bad_is_tie=both_bad_is_tie).items() if len(labels) > 1}
    units = [list(labels.values()) for labels in shared.values()]
    decisive = [[label for label in labels if label in DECISIVE] for labels in units]
    prompts = [item[0] for item in shared]
    return Agreement(
        alpha=krippendorff_alpha(units, clusters=prompts, num_resamples=num_resamples, seed=seed, level=level),
        ac1=gwet_ac1(units, clusters=prompts, num_resamples=num_resamples, seed=seed, level=level),
        percent_agreement=percent_agreement(units, clusters=prompts, level=level),
        num_pairs=_num_pairs(units),
        without_ties=percent_agreement(decisive, clusters=prompts, level=level),
        num_decisive_pairs=_num_pairs(decisive),
        num_items=len(shared),
        num_raters=len({rater for labels in shared.values() for rater in labels}),
        num_votes=sum(len(labels) for labels in units),
    )


def judge_agreement(
    votes: Iterable[VoteRecord],
    judge: str,
    *,
    both_bad_is_tie: bool = True,
    num_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> JudgeAgreement:
    """Measure the agreement of the rater called `judge` with all other raters. Raises InvalidInput if it has no vote."""
    records = list(votes)
    verdicts: dict[Item, list[tuple[str, str]]] = {}
    for vote in records:
        if vote.rater == judge:
            item, label = canonical_label(vote)
            verdicts.setdefault(item, []).append((vote.a, "tie" if both_bad_is_tie and label == "both_bad" else label))
    if not verdicts:
        raise InvalidInput(f"No vote is by {judge!r}.", remedy="Name the judge as the votes' rater column does.", field="judge")
    judged = {item: labels[0][1] if len({label for _, label in labels}) == 1 else "tie" for item, labels in verdicts.items()}
    both = {item: len({label for _, label in labels}) > 1 for item, labels in verdicts.items() if len({side for side, _ in labels}) > 1}
    people = labels_by_item((vote for vote in records if vote.rater != judge), both_bad_is_tie=both_bad_is_tie)
    pairs = [(item[0], judged[item], label) for item, labels in people.items() if item in judged for label in labels.values()]
    units = [pair[1:] for pair in pairs]
    prompts = [pair[0] for pair in pairs]
    decisive = [(prompt, *labels) for prompt, *labels in pairs if set(labels) <= DECISIVE]
    return JudgeAgreement(
        judge=judge,
        percent_agreement=percent_agreement(units, clusters=prompts, level=level),
        num_pairs=len(units),
        without_ties=percent_agreement([pair[1:] for pair in decisive], clusters=[pair[0] for pair in decisive], level=level),
        num_decisive_pairs=len(decisive),
        kappa=pooled_kappa(units, clusters=prompts, num_resamples=num_resamples, seed=seed, level=level),
        ac1=gwet_ac1(units, clusters=prompts, num_resamples=num_resamples, seed=seed, level=level),
        flips=share_estimate([float(flip) for flip in both.values()], clusters=[item[0] for item in both], level=level) if both else None,
        num_items=len({item for item in people if item in judged}),
    )


def krippendorff_alpha(
    units: Iterable[Sequence[Hashable]],
    *,
    clusters: Sequence[Hashable] | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate | None:
    """Nominal alpha of units, each the labels that raters gave it; missing ones are absent, units with fewer than two are left out.

    alpha = 1 - (n - 1) * sum_u D_u / (n^2 - sum_c n_c^2), D_u = (m_u^2 - sum_c n_uc^2) / (m_u - 1). The interval resamples units, or
    clusters of them. None if no unit has two labels, or only one label was ever used (there is no chance agreement to compare with).
    """
    counts, codes = _label_counts(units, clusters)
    if not len(counts):
        return None
    sizes = counts.sum(1)
    disagreement = (sizes**2 - (counts**2).sum(1)) / (sizes - 1)
    return _resampled(
        np.column_stack([disagreement, counts]),
        codes,
        lambda sums: _alpha(sums[:, 0], sums[:, 1:]),
        name="Krippendorff's alpha (nominal)",
        num_resamples=num_resamples,
        seed=seed,
        level=level,
    )


def gwet_ac1(
    units: Iterable[Sequence[Hashable]],
    *,
    clusters: Sequence[Hashable] | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate | None:
    """AC1 of units, each the labels that raters gave it: (p_a - p_e) / (1 - p_e), p_e = sum_c q_c (1 - q_c) / (K - 1).

    p_a averages the share of equal pairs over units with two labels, q_c the share of label c over all units. None if no unit has two
    labels, or only one label was ever used.
    """
    listed = list(units)
    counts, codes = _label_counts(listed, clusters, fewest=1)
    sizes = counts.sum(1)
    if counts.shape[1] < 2 or not (sizes > 1).any():
        return None
    pairs = np.where(sizes > 1, (counts * (counts - 1)).sum(1) / np.maximum(sizes * (sizes - 1), 1), 0.0)

    def ac1(sums: FloatArray) -> FloatArray:
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = sums[:, 3:] / sums[:, 2:3]
            chance = (shares * (1 - shares)).sum(1) / (shares.shape[1] - 1)
            value: FloatArray = (sums[:, 0] / sums[:, 1] - chance) / (1 - chance)
        return value

    columns = np.column_stack([pairs, sizes > 1, np.ones(len(counts)), counts / sizes[:, None]])
    return _resampled(columns, codes, ac1, name="Gwet's AC1", num_resamples=num_resamples, seed=seed, level=level)


def pooled_kappa(
    pairs: Iterable[Sequence[Hashable]],
    *,
    clusters: Sequence[Hashable] | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate | None:
    """Cohen's kappa of two raters' labels, given as pairs; the interval resamples pairs, or clusters of them. None if undefined."""
    listed = [tuple(pair) for pair in pairs]
    if not listed:
        return None
    index = {label: code for code, label in enumerate(dict.fromkeys(label for pair in listed for label in pair))}
    left, right = (np.eye(len(index))[[index[pair[side]] for pair in listed]] for side in (0, 1))
    codes = _codes(range(len(listed)) if clusters is None else clusters)

    def kappa(sums: FloatArray) -> FloatArray:
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = sums / sums[:, 1:2]
            chance = (shares[:, 2 : 2 + len(index)] * shares[:, 2 + len(index) :]).sum(1)
            value: FloatArray = np.where(chance < 1, (shares[:, 0] - chance) / (1 - chance), np.nan)
        return value

    columns = np.column_stack([(left * right).sum(1), np.ones(len(listed)), left, right])
    return _resampled(columns, codes, kappa, name="Cohen's kappa", num_resamples=num_resamples, seed=seed, level=level)


def percent_agreement(
    units: Iterable[Sequence[Hashable]], *, clusters: Sequence[Hashable] | None = None, level: float = 0.95
) -> Estimate | None:
    """Share of equal labels among all pairs of labels on the same unit, with an interval over units, or clusters of them.

    None without a pair. One cluster gives no interval.
    """
    counts, codes = _label_counts(units, clusters)
    if not len(counts):
        return None
    sizes = counts.sum(1)
    equal, pairs = (counts * (counts - 1)).sum(1), sizes * (sizes - 1)
    return _within_unit(ratio_estimate(equal, pairs, clusters=None if clusters is None else codes.tolist(), level=level), level=level)


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


def _num_pairs(units: Iterable[Sequence[Hashable]]) -> int:
    return sum(len(unit) * (len(unit) - 1) // 2 for unit in units)


def _codes(clusters: Iterable[Hashable]) -> NDArray[np.int64]:
    index: dict[Hashable, int] = {}
    return np.array([index.setdefault(name, len(index)) for name in clusters], dtype=np.int64)


def _label_counts(
    units: Iterable[Sequence[Hashable]], clusters: Sequence[Hashable] | None = None, *, fewest: int = 2
) -> tuple[FloatArray, NDArray[np.int64]]:
    """Units x labels: raters who gave the unit this label, and the unit's cluster. Units with fewer than `fewest` labels are dropped."""
    listed = list(units)
    names: Sequence[Hashable] = range(len(listed)) if clusters is None else clusters
    rows = [(unit, name) for unit, name in zip(listed, names, strict=True) if len(unit) >= fewest]
    index = {label: code for code, label in enumerate(dict.fromkeys(label for unit, _ in rows for label in unit))}
    positions = np.repeat(np.arange(len(rows)), [len(unit) for unit, _ in rows])
    columns = np.array([index[label] for unit, _ in rows for label in unit], dtype=np.int64)
    counts = np.zeros((len(rows), len(index)))
    np.add.at(counts, (positions, columns), 1.0)
    return counts, _codes(name for _, name in rows)


def _resampled(
    columns: FloatArray,
    codes: NDArray[np.int64],
    statistic: Callable[[FloatArray], FloatArray],
    *,
    name: str,
    num_resamples: int,
    seed: int,
    level: float,
) -> Estimate | None:
    """Estimate a function of the columns' sums, with the percentile interval of resampled clusters; None where it is undefined."""
    value = float(statistic(columns.sum(0)[None, :])[0])
    if not np.isfinite(value):
        return None
    num_clusters = int(codes.max()) + 1
    sums = np.zeros((num_clusters, columns.shape[1]))
    np.add.at(sums, codes, columns)
    if num_clusters < 2:
        return Estimate(value, None, None, None, len(columns), f"{name}: one cluster gives no interval")
    rng, draws = np.random.default_rng(seed), np.empty(num_resamples)
    chunk = max(1, 4_000_000 // num_clusters)
    for start in range(0, num_resamples, chunk):
        size = min(chunk, num_resamples - start)
        weights = rng.multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters), size=size).astype(np.float64)
        draws[start : start + size] = statistic(weights @ sums)
    draws = draws[np.isfinite(draws)]
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2])
    unit = "items" if num_clusters == len(columns) else f"{num_clusters} clusters"
    method = f"{name}, bootstrap of {unit}, {num_resamples} draws, {percent(level)}"
    return Estimate(value, float(draws.std(ddof=1)), float(low), float(high), len(columns), method)


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
