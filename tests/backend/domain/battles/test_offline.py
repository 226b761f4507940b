"""Benchmarks beside the raters' order."""

from __future__ import annotations

import pytest

from backend.domain.battles.agreement import offline_agreement

NAMES = "abcdefgh"


def numbers(*values: float) -> dict[str, float]:
    return dict(zip(NAMES, values, strict=False))


def test_a_benchmark_that_orders_as_the_raters_do_has_a_correlation_of_one() -> None:
    result = offline_agreement(numbers(1, 2, 3, 4, 5), numbers(10, 20, 30, 40, 50), benchmark="facts", metric="acc")
    assert (result.tau, result.alike, result.pairs) == (pytest.approx(1.0), 10, 10)


def test_the_correlation_counts_pairs() -> None:
    """Orders 1..5 against 2, 1, 3, 4, 5: one of ten pairs is swapped, so tau is (9 - 1) / 10."""
    result = offline_agreement(numbers(1, 2, 3, 4, 5), numbers(2, 1, 3, 4, 5), benchmark="facts", metric="acc")
    assert (result.tau, result.alike) == (pytest.approx(0.8), 9)
    assert result.tau_low is not None
    assert result.tau_high is not None
    assert result.tau_low <= 0.8 <= result.tau_high


def test_a_loss_is_turned_and_ties_are_left_out() -> None:
    loss = offline_agreement(
        numbers(1, 2, 3, 4, 5), numbers(5, 4, 3, 2, 1), benchmark="loss", metric="loss", lower_is_better=True
    )
    assert loss.tau == pytest.approx(1.0)
    tied = offline_agreement(numbers(1, 2, 3, 4, 5), numbers(1, 1, 3, 4, 5), benchmark="facts", metric="acc")
    assert (tied.alike, tied.pairs) == (9, 9)


def test_fewer_than_five_contestants_claim_nothing() -> None:
    result = offline_agreement(numbers(1, 2, 3, 4), numbers(1, 2, 3, 4), benchmark="facts", metric="acc")
    assert (result.tau, result.is_enough) == (None, False)
    assert "too few to tell" in result.sentence


def test_equal_scores_have_no_correlation() -> None:
    result = offline_agreement(numbers(1, 2, 3, 4, 5), numbers(7, 7, 7, 7, 7), benchmark="facts", metric="acc")
    assert result.tau is None
    assert "equal" in result.sentence
