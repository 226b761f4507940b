"""Choose a rater's next battle: the pair and prompt with the fewest votes, with some random exploration. Pure, no I/O. Exploration keeps
every battle's probability above zero, so that votes can be reweighted later; the probability is returned for logging, because it can't be
reconstructed (Chiang et al. 2024, arXiv 2403.04132, section 5).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

EPSILON = 0.15
"""Share of battles that are drawn uniformly."""

LIGHT = 0.5
"""Lead in votes allowed to an undecided neighbour: a pair of interest 1 counts its votes at 1 / (1 + LIGHT)."""

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A battle that could be served. `votes` counts votes on this prompt and pair, `prompt_votes` all votes on the prompt."""

    prompt: str
    pair: Pair
    votes: int
    prompt_votes: int


@dataclass(frozen=True, slots=True)
class PairCount:
    """Votes of a pair, in the order of its names: wins of the first, wins of the second, everything else."""

    first: int = 0
    second: int = 0
    halves: int = 0

    @property
    def total(self) -> int:
        """All votes."""
        return self.first + self.second + self.halves


def pair_of(one: str, other: str) -> Pair:
    """Return two contestants in their fixed order."""
    return (one, other) if one < other else (other, one)


def interest(counts: Mapping[Pair, PairCount]) -> dict[Pair, float]:
    """Return 1 for each pair of neighbours in the order of average score whose sign test is not clear (|z| < 2), else 0."""
    earned: dict[str, float] = {}
    met: dict[str, int] = {}
    for (one, other), count in counts.items():
        for name, wins in ((one, count.first), (other, count.second)):
            earned[name] = earned.get(name, 0.0) + wins + count.halves / 2
            met[name] = met.get(name, 0) + count.total
    order = sorted(met, key=lambda name: (-(earned[name] / met[name] if met[name] else 0.5), name))
    neighbours = {pair_of(one, other) for one, other in itertools.pairwise(order)}
    return {pair: float(pair in neighbours and not _is_clear(count)) for pair, count in counts.items()}


def _is_clear(count: PairCount) -> bool:
    decisive = count.first + count.second
    return decisive > 0 and abs(count.first - count.second) >= 2 * math.sqrt(decisive)


def choose_battle(
    candidates: Sequence[Candidate], counts: Mapping[Pair, PairCount], *, rng: Random, epsilon: float = EPSILON
) -> tuple[Candidate, float]:
    """Draw the next battle and return it with the probability with which it was drawn.

    With chance 1 - epsilon uniformly among the best (the pair with the fewest votes, then its prompt with the fewest), else uniformly
    among all. `candidates` must not be empty.
    """
    weights = interest(counts)

    def cost(candidate: Candidate) -> tuple[float, int, int]:
        votes = counts.get(candidate.pair, PairCount()).total
        return (votes / (1 + LIGHT * weights.get(candidate.pair, 0.0)), candidate.votes, candidate.prompt_votes)

    costs = [cost(candidate) for candidate in candidates]
    least = min(costs)
    best = [candidate for candidate, its in zip(candidates, costs, strict=True) if its == least]
    chosen = rng.choice(candidates) if rng.random() < epsilon else rng.choice(best)
    return chosen, epsilon / len(candidates) + ((1 - epsilon) / len(best) if chosen in best else 0.0)
