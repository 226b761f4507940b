"""Value of one more vote on each pair. Pure, no I/O.

Active sampling after Chiang et al. 2024 (arXiv 2403.04132, section 5): a pair's weight is the expected reduction, by
one more vote, of the variances of the rating differences that are still undecided. Weights are above zero, and the
probability of every draw is logged, because it can't be reconstructed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pair = tuple[str, str]
FloatArray = NDArray[np.float64]

PRIOR_SD = 2.5
"""Standard deviation of a rating before any vote, natural units."""

CLEAR = 2.5
"""A difference of this many standard errors counts as decided."""

NEWTON_STEPS = 8
MIN_WEIGHT = 1e-6


@dataclass(frozen=True, slots=True)
class PairCount:
    """Votes of a pair in the order of its names: wins of the first, of the second, the rest; and its open battles."""

    first: int = 0
    second: int = 0
    halves: int = 0
    open: int = 0

    @property
    def total(self) -> int:
        """All votes."""
        return self.first + self.second + self.halves


def pair_of(one: str, other: str) -> Pair:
    """Return two contestants in their fixed order."""
    return (one, other) if one < other else (other, one)


def all_pairs(contestants: Iterable[str]) -> list[Pair]:
    """Return every pair of contestants in its fixed order."""
    return list(itertools.combinations(sorted(contestants), 2))


def information_weights(contestants: Sequence[str], counts: Mapping[Pair, PairCount]) -> dict[Pair, float]:
    """Return for each pair of contestants the expected reduction of the undecided differences' variances by one more
    vote.

    The ratings' covariance V is the inverse of the Bradley-Terry information with a normal prior; open battles count as
    votes to come. One vote on (i, j) with win probability p adds h = p(1 - p) in the direction i - j, and takes h c^2 /
    (1 + h v) off the variance of any difference whose covariance with that of i and j is c, where v is the variance of
    the latter (Sherman and Morrison 1950).
    """
    names = sorted(contestants)
    pairs = all_pairs(names)
    if not pairs:
        return {}
    index = {name: number for number, name in enumerate(names)}
    first = np.array([index[one] for one, _ in pairs])
    second = np.array([index[other] for _, other in pairs])
    tallies = [counts.get(pair, PairCount()) for pair in pairs]
    votes = np.array([tally.total for tally in tallies], dtype=np.float64)
    points = np.array([tally.first + tally.halves / 2 for tally in tallies])
    pending = np.array([tally.open for tally in tallies], dtype=np.float64)
    theta = _fit(first, second, votes, points, len(names))
    win = 1 / (1 + np.exp(-(theta[first] - theta[second])))
    spread = win * (1 - win)
    covariance = np.linalg.inv(_information(first, second, (votes + pending) * spread, len(names)))
    differences = (
        covariance[first][:, first]
        + covariance[second][:, second]
        - covariance[first][:, second]
        - covariance[second][:, first]
    )
    variance = np.diag(differences)
    undecided = np.abs(theta[first] - theta[second]) < CLEAR * np.sqrt(variance)
    if not undecided.any():
        undecided[:] = True
    gains = spread / (1 + spread * variance) * (differences[:, undecided] ** 2).sum(axis=1)
    return {pair: max(float(gain), MIN_WEIGHT) for pair, gain in zip(pairs, gains, strict=True)}


def _fit(
    first: NDArray[np.int64], second: NDArray[np.int64], votes: FloatArray, points: FloatArray, size: int
) -> FloatArray:
    """Return the posterior mode of the ratings by Newton's method."""
    theta = np.zeros(size)
    for _ in range(NEWTON_STEPS):
        win = 1 / (1 + np.exp(-(theta[first] - theta[second])))
        surprise = points - votes * win
        gradient = np.bincount(first, surprise, size) - np.bincount(second, surprise, size) - theta / PRIOR_SD**2
        step = np.linalg.solve(_information(first, second, votes * win * (1 - win), size), gradient)
        theta = theta + np.clip(step, -2.0, 2.0)
        if float(np.abs(step).max()) < 1e-6:
            break
    return theta


def _information(first: NDArray[np.int64], second: NDArray[np.int64], weight: FloatArray, size: int) -> FloatArray:
    matrix = np.eye(size) / PRIOR_SD**2
    np.add.at(matrix, (first, first), weight)
    np.add.at(matrix, (second, second), weight)
    np.add.at(matrix, (first, second), -weight)
    np.add.at(matrix, (second, first), -weight)
    return matrix
