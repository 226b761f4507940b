"""Agreement of raters, and of a judge or a benchmark with raters, on which contestant was better.

A vote names a contestant, not a side: sides are shuffled, so agreement on sides would measure nothing. Pairs of votes
on the same battle are counted as in MT-bench (Zheng et al. 2023, arXiv 2306.05685, table 5), which the definition
reproduces. "Both bad" counts as a tie, as in a rating. Intervals resample prompts.

A benchmark's agreement is Kendall's tau-b and the share of pairs that both order alike. With few contestants the tau of
a benchmark is nearly free to be anything: five contestants have ten pairs. So intervals come from resampling
contestants, and below five nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import scipy
from numpy.typing import NDArray

from backend.domain.battles.votes import Label, VoteColumns, VoteRecord, encode_votes
from backend.domain.statistics.agreement import (
    THOUSAND,
    Resampling,
    gwet_ac1,
    krippendorff_alpha,
    percent_agreement,
    pooled_kappa,
)
from backend.domain.statistics.estimates import Estimate, share_estimate
from backend.errors import InvalidInput

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
CANONICAL = ("first", "second", "tie")
DECISIVE = {"first", "second"}


@dataclass(frozen=True, slots=True)
class RaterAgreement:
    """Agreement of raters on items that at least two of them judged; None if undefined.

    `alpha` is 1 for perfect and 0 for chance agreement; undefined if only one label was ever used. `percent_agreement`
    is the share of equal labels among all `num_pairs` pairs of votes on an item, `without_ties` the same among the
    `num_decisive_pairs` of votes that preferred a contestant.
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

    `flips` is the share of items on which the judge, asked in both orders, contradicted itself; its label there is a
    tie. None if it was not asked twice.
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
    """The item that a vote judges, and its label in the order of names: first, second or tie."""
    first, second = sorted((vote.a, vote.b))
    if vote.winner not in Label.__members__:
        raise InvalidInput(
            f"The winner {vote.winner!r} is unknown.", remedy="Use A, B, TIE or BOTH_BAD.", field="winner"
        )
    preferred = {Label.A.value: vote.a, Label.B.value: vote.b}.get(vote.winner)
    label = "tie" if preferred is None else "first" if preferred == first else "second"
    return (vote.prompt, vote.turn, first, second), label


def _labels_by_item(votes: Iterable[VoteRecord]) -> dict[Item, dict[str, str]]:
    """Return each item's labels by rater; a rater who judged it twice counts with the later vote. Identical answers are
    left out.
    """
    by_item: dict[Item, dict[str, str]] = {}
    for vote in votes:
        if not vote.identical:
            item, label = canonical_label(vote)
            by_item.setdefault(item, {})[vote.rater] = label
    return by_item


def vote_agreement(votes: Sequence[VoteRecord] | VoteColumns, *, resampling: Resampling = THOUSAND) -> RaterAgreement:
    """Measure the raters' agreement. A rater who judged an item twice counts with the later vote. Intervals resample
    prompts.

    Labels are in the order of the contestants' names, so neither the order of the votes nor the sides matter. Raises
    InvalidInput for an unknown label.
    """
    items = judged_items(votes if isinstance(votes, VoteColumns) else encode_votes(votes))
    shared = np.bincount(items.item, minlength=items.num_items) > 1
    counts = items.counts[shared]
    prompts, decisive = items.prompt_of_item[shared], counts[:, :2]
    return RaterAgreement(
        alpha=krippendorff_alpha(counts, clusters=prompts, resampling=resampling),
        ac1=gwet_ac1(counts, clusters=prompts, resampling=resampling),
        percent_agreement=percent_agreement(counts, clusters=prompts, level=resampling.level),
        num_pairs=_num_pairs(counts),
        without_ties=percent_agreement(decisive, clusters=prompts, level=resampling.level),
        num_decisive_pairs=_num_pairs(decisive),
        num_items=len(counts),
        num_raters=len(np.unique(items.rater[shared[items.item]])),
        num_votes=int(counts.sum()),
    )


@dataclass(frozen=True, slots=True)
class JudgedItems:
    """The votes that count for agreement, as codes: item, rater, and label in the order of names (first, second, tie).

    An item is a prompt's turn with a pair of contestants. `vote` is each one's row in the columns.
    """

    vote: IntArray
    item: IntArray
    rater: IntArray
    label: IntArray
    prompt_of_item: IntArray

    @property
    def num_items(self) -> int:
        """Number of items."""
        return len(self.prompt_of_item)

    @property
    def counts(self) -> FloatArray:
        """Items x labels: raters who gave the item this label."""
        return self.counts_among(np.ones(len(self.item), dtype=bool))

    def counts_among(self, votes: NDArray[np.bool_]) -> FloatArray:
        """Items x labels, of some of the votes."""
        cells = self.item[votes] * len(CANONICAL) + self.label[votes]
        counts = np.bincount(cells, minlength=self.num_items * len(CANONICAL))
        return counts.reshape(-1, len(CANONICAL)).astype(np.float64)


def judged_items(columns: VoteColumns, *, among: NDArray[np.bool_] | None = None) -> JudgedItems:
    """Return each rater's latest vote on each item, `among` some votes. Identical answers are left out."""
    chosen = np.ones(len(columns), dtype=bool) if among is None else among
    votes = np.flatnonzero(chosen & columns.is_cast)
    item, prompt_of_item = items_of(columns, votes)
    judged = item * columns.num_raters + columns.rater[votes]
    position = np.sort(len(votes) - 1 - np.unique(judged[::-1], return_index=True)[1])
    return JudgedItems(
        vote=votes[position],
        item=item[position],
        rater=columns.rater[votes[position]],
        label=np.minimum(canonical_labels(columns, votes[position]), CANONICAL.index("tie")),
        prompt_of_item=prompt_of_item,
    )


def items_of(columns: VoteColumns, votes: IntArray) -> tuple[IntArray, IntArray]:
    """Return the item of each vote as a code, and the prompt of each item."""
    a, b = columns.a[votes], columns.b[votes]
    size = max(1, len(columns.contestants))
    turn = 0 if columns.turn is None else columns.turn[votes]
    turns = 1 if columns.turn is None else int(columns.turn.max(initial=0)) + 1
    keys = ((columns.prompt[votes] * turns + turn) * size + np.minimum(a, b)) * size + np.maximum(a, b)
    items, item = np.unique(keys, return_inverse=True)
    return item, items // (size * size * turns)


def canonical_labels(columns: VoteColumns, votes: IntArray) -> IntArray:
    """Return each vote's label as a code of CANONICAL, or one beyond for "both bad"; contestants are coded in the order
    of their names.
    """
    label = columns.label[votes]
    decisive = label < 2
    return np.where(decisive, label ^ (columns.a[votes] > columns.b[votes]), label)


def judge_agreement(votes: Iterable[VoteRecord], judge: str, *, resampling: Resampling = THOUSAND) -> JudgeAgreement:
    """Measure the agreement of the rater `judge` with all others. Raises InvalidInput if it has no vote."""
    records = list(votes)
    verdicts: dict[Item, list[tuple[str, str]]] = {}
    for vote in records:
        if vote.rater == judge:
            item, label = canonical_label(vote)
            verdicts.setdefault(item, []).append((vote.a, label))
    if not verdicts:
        raise InvalidInput(
            f"No vote is by {judge!r}.", remedy="Name the judge as the votes' rater column does.", field="judge"
        )
    judged = {
        item: labels[0][1] if len({label for _, label in labels}) == 1 else "tie" for item, labels in verdicts.items()
    }
    both = {
        item: len({label for _, label in labels}) > 1
        for item, labels in verdicts.items()
        if len({side for side, _ in labels}) > 1
    }
    people = _labels_by_item(vote for vote in records if vote.rater != judge)
    pairs = [
        (item[0], judged[item], label) for item, labels in people.items() if item in judged for label in labels.values()
    ]
    units = [pair[1:] for pair in pairs]
    prompts = [pair[0] for pair in pairs]
    decisive = [(prompt, *labels) for prompt, *labels in pairs if set(labels) <= DECISIVE]
    flips = [float(flip) for flip in both.values()]
    return JudgeAgreement(
        judge=judge,
        percent_agreement=percent_agreement(units, clusters=prompts, level=resampling.level),
        num_pairs=len(units),
        without_ties=percent_agreement(
            [pair[1:] for pair in decisive], clusters=[pair[0] for pair in decisive], level=resampling.level
        ),
        num_decisive_pairs=len(decisive),
        kappa=pooled_kappa(units, clusters=prompts, resampling=resampling),
        ac1=gwet_ac1(units, clusters=prompts, resampling=resampling),
        flips=share_estimate(flips, clusters=[item[0] for item in both], level=resampling.level) if both else None,
        num_items=len({item for item in people if item in judged}),
    )


def _num_pairs(counts: FloatArray) -> int:
    sizes = counts.sum(1)
    return int((sizes * (sizes - 1)).sum()) // 2


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
