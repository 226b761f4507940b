"""How much a vote on each pair would tell."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.battles.pool import MIN_WEIGHT, PRIOR_SD, PairCount, information_weights, pair_of


def covariance_of(votes: dict[tuple[int, int], float], size: int) -> np.ndarray:
    """The covariance of ratings where every win probability is a half."""
    matrix = np.eye(size) / PRIOR_SD**2
    for (one, other), number in votes.items():
        direction = np.zeros(size)
        direction[one], direction[other] = 1, -1
        matrix += number / 4 * np.outer(direction, direction)
    return np.linalg.inv(matrix)


def test_a_pairs_weight_is_the_variance_that_one_more_vote_takes_off_all_differences() -> None:
    counts = {("a", "b"): PairCount(3, 3), ("a", "c"): PairCount(1, 1), ("b", "c"): PairCount(0, 0, 2)}
    votes = {(0, 1): 6.0, (0, 2): 2.0, (1, 2): 2.0}
    weights = information_weights(["a", "b", "c"], counts)

    def total_variance(votes: dict[tuple[int, int], float]) -> float:
        v = covariance_of(votes, 3)
        return sum(v[i, i] + v[j, j] - 2 * v[i, j] for i, j in votes)

    for pair, (one, other) in (("ab", (0, 1)), ("ac", (0, 2)), ("bc", (1, 2))):
        reduction = total_variance(votes) - total_variance({**votes, (one, other): votes[one, other] + 1})
        assert weights[pair[0], pair[1]] == pytest.approx(reduction, rel=1e-9)


def test_the_pair_with_the_fewest_votes_has_the_largest_weight() -> None:
    weights = information_weights(
        ["a", "b", "c"], {("a", "b"): PairCount(5, 5), ("a", "c"): PairCount(1, 1), ("b", "c"): PairCount(5, 5)}
    )
    assert weights["a", "c"] > 2 * weights["a", "b"]


def test_a_pair_that_is_decided_gets_fewer_votes_than_one_that_is_not() -> None:
    counts = {("a", "b"): PairCount(30, 0), ("a", "c"): PairCount(30, 0), ("b", "c"): PairCount(15, 15)}
    weights = information_weights(["a", "b", "c"], counts)
    assert weights["b", "c"] > 3 * weights["a", "b"]


def test_open_battles_count_as_votes_to_come() -> None:
    weights = information_weights(["a", "b", "c"], {("a", "b"): PairCount(open=4)})
    assert weights["a", "b"] < weights["a", "c"] == pytest.approx(weights["b", "c"])


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40)), min_size=6, max_size=6))
def test_every_pair_has_a_finite_weight_above_zero(votes: list[tuple[int, int, int]]) -> None:
    pairs = [("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d")]
    weights = information_weights(
        list("abcd"), {pair: PairCount(*tally) for pair, tally in zip(pairs, votes, strict=True)}
    )
    assert set(weights) == set(pairs)
    assert all(MIN_WEIGHT <= weight < float("inf") for weight in weights.values())


@given(st.text(min_size=1), st.text(min_size=1))
def test_a_pair_has_one_order(one: str, other: str) -> None:
    assert pair_of(one, other) == pair_of(other, one)
