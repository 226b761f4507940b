"""Votes of one pair of contestants, seen from its first, in the order in which they were cast."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from backend.domain.battles.inference.plans import BALLOT_VOTES, PLANNED_LEANING, VoteSpread
from backend.domain.battles.votes import LABEL_REMEDY, LABELS, POINTS_OF_A, Label, VoteColumns, VoteRecord
from backend.errors import InvalidInput

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

PRIOR_RATERS = 4
"""Pseudo-raters of planned leaning."""
PRIOR_PROMPTS = 4
"""Pseudo-prompts of planned spread that a plan starts from, until real prompts outweigh them."""


@dataclass(frozen=True, slots=True)
class PairVotes:
    """A pair's votes seen from first, in the order cast: points, prompt and rater (a code of `raters`) of each, and
    label counts.

    Ties of `identical` answers are only counted: a bet on them is no bet. `identical_prompts` had no other votes.
    """

    points: FloatArray
    prompt: IntArray
    rater: IntArray
    raters: tuple[str, ...]
    ties: int
    both_bad: int
    identical: int
    identical_prompts: int

    @property
    def share_identical(self) -> float:
        """Share of the votes that are ties of identical answers."""
        return self.identical / (self.identical + len(self.points)) if self.identical else 0.0

    @property
    def sizes(self) -> FloatArray:
        """Votes of each prompt."""
        return np.bincount(self.prompt).astype(np.float64)

    @property
    def means(self) -> FloatArray:
        """Mean points of each prompt."""
        means: FloatArray = np.bincount(self.prompt, self.points) / self.sizes
        return means

    def swapped(self) -> PairVotes:
        """Return the votes seen from second."""
        return replace(self, points=1 - self.points)


NO_VOTES = PairVotes(np.empty(0), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), (), 0, 0, 0, 0)


def pair_votes(votes: Iterable[VoteRecord], first: str, second: str) -> PairVotes:
    """Select the votes on battles between the two. Raises InvalidInput for an unknown label or equal names."""
    if first == second:
        raise InvalidInput(
            f"{first!r} can't be compared with itself.", remedy="Choose two contestants.", field="second"
        )
    prompts, raters = dict[str, int](), dict[str, int]()
    points, prompt, rater, labels, identical = [], [], [], [], list[str]()
    for vote in votes:
        if {vote.a, vote.b} != {first, second}:
            continue
        if vote.winner not in Label.__members__:
            raise InvalidInput(f"The winner {vote.winner!r} is unknown.", remedy=LABEL_REMEDY, field="winner")
        if vote.identical:
            identical.append(vote.prompt)
            continue
        label = Label(vote.winner)
        points.append(POINTS_OF_A[label] if vote.a == first else 1 - POINTS_OF_A[label])
        prompt.append(prompts.setdefault(vote.prompt, len(prompts)))
        rater.append(raters.setdefault(vote.rater, len(raters)))
        labels.append(label)
    return PairVotes(
        np.array(points, dtype=np.float64),
        np.array(prompt, dtype=np.int64),
        np.array(rater, dtype=np.int64),
        tuple(raters),
        labels.count(Label.TIE),
        labels.count(Label.BOTH_BAD),
        len(identical),
        len(set(identical) - set(prompts)),
    )


def votes_by_pair(columns: VoteColumns) -> dict[tuple[str, str], PairVotes]:
    """Split votes by pair, each with its first and second in the order of names."""
    names = columns.contestants
    pair = np.minimum(columns.a, columns.b) * len(names) + np.maximum(columns.a, columns.b)
    order = np.argsort(pair, kind="stable")
    codes, starts = np.unique(pair[order], return_index=True)
    bounds = [*starts, len(order)]
    return {
        (names[code // len(names)], names[code % len(names)]): _select(columns, order[bounds[at] : bounds[at + 1]])
        for at, code in enumerate(codes.tolist())
    }


def _select(columns: VoteColumns, votes: IntArray) -> PairVotes:
    equal = ~columns.is_cast[votes]
    equal_prompts, votes = columns.prompt[votes[equal]], votes[~equal]
    names, rater = np.unique(columns.rater[votes], return_inverse=True)
    prompts, prompt = np.unique(columns.prompt[votes], return_inverse=True)
    points = columns.points_of(votes)
    return PairVotes(
        np.where(columns.a[votes] < columns.b[votes], points, 1 - points),
        prompt,
        rater,
        tuple(columns.raters[code] for code in names),
        int((columns.label[votes] == LABELS.index(Label.TIE)).sum()),
        int((columns.label[votes] == LABELS.index(Label.BOTH_BAD)).sum()),
        len(equal_prompts),
        len(np.setdiff1d(equal_prompts, prompts)),
    )


def measured_spread(pair: PairVotes, *, equal: float = 0.0) -> VoteSpread:
    """Measure the variation of a pair's votes, from a planned spread that real prompts outweigh; `equal` is the share
    of identical answers.

    A vote's variance is a quarter of the share of decisive votes, as it would be between equals; likeness is by
    analysis of variance.
    """
    planned = VoteSpread()
    num_votes, sizes, means = len(pair.points), pair.sizes, pair.means
    num_prompts = len(sizes)
    square = float(((pair.points - 0.5) ** 2).sum())
    vote = (PRIOR_PROMPTS * planned.vote + square) / (PRIOR_PROMPTS + num_votes) * (1 - equal)
    if num_prompts < 2 or num_votes == num_prompts:
        return VoteSpread(vote, planned.likeness)
    within = float(((pair.points - means[pair.prompt]) ** 2).sum()) / (num_votes - num_prompts)
    between = float((sizes * (means - pair.points.mean()) ** 2).sum()) / (num_prompts - 1)
    size = (num_votes - float((sizes**2).sum()) / num_votes) / (num_prompts - 1)
    common = max(0.0, (between - within) / size)
    repeated = int((sizes > 1).sum())
    measured = common / (common + within) if common + within else planned.likeness
    return VoteSpread(vote, (PRIOR_PROMPTS * planned.likeness + repeated * measured) / (PRIOR_PROMPTS + repeated))


def measured_leaning(pair: PairVotes) -> tuple[float, float]:
    """Measure the standard deviation of raters' leanings in log-odds, and the votes that a rater casts on average.

    By analysis of variance over raters on the decisive votes, from a planned leaning that real raters outweigh.
    """
    decisive = pair.points != 0.5
    sizes = np.bincount(pair.rater[decisive], minlength=len(pair.raters)).astype(np.float64)
    per_rater = len(pair.points) / len(pair.raters) if pair.raters else BALLOT_VOTES
    voted = sizes > 0
    sizes, won = sizes[voted], np.bincount(pair.rater[decisive], pair.points[decisive], len(pair.raters))[voted]
    num_votes, num_raters = float(sizes.sum()), len(sizes)
    if num_raters < 2 or num_votes == num_raters:
        return PLANNED_LEANING, per_rater
    means, mean = won / sizes, float(won.sum()) / num_votes
    within = float((won * (1 - means)).sum()) / (num_votes - num_raters)
    between = float((sizes * (means - mean) ** 2).sum()) / (num_raters - 1)
    size = (num_votes - float((sizes**2).sum()) / num_votes) / (num_raters - 1)
    common = max(0.0, (between - within) / size) / max(mean * (1 - mean), 0.01) ** 2
    variance = (PRIOR_RATERS * PLANNED_LEANING**2 + num_raters * common) / (PRIOR_RATERS + num_raters)
    return float(np.sqrt(variance)), per_rater
