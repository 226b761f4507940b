"""Verdicts: published plan sizes, an e-value that peeking can't fool, and sentences a lead can act on."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from backend.domain.battles.ratings import VoteRecord
from backend.domain.battles.verdicts import beta_mixture_e_value, pair_verdict, votes_for_gap
from backend.errors import InvalidInput

SWAPPED = {"A": "B", "B": "A"}


def votes_on_prompts(labels: str, *, raters: int = 1) -> list[VoteRecord]:
    """One prompt per letter (A: new wins, B: old wins, T: tie, X: both bad), the same from each rater."""
    names = {"T": "TIE", "X": "BOTH_BAD"}
    return [
        VoteRecord(f"p{place}", f"r{rater}", "new", "old", names.get(letter, letter))
        for place, letter in enumerate(labels)
        for rater in range(raters)
    ]


@given(st.integers(1, 40))
def test_e_value_has_expectation_one_under_the_null(n: int) -> None:
    chances = stats.binom.pmf(np.arange(n + 1), n, 0.5)
    values = [beta_mixture_e_value(wins, n - wins) for wins in range(n + 1)]
    assert float(chances @ np.array(values)) == pytest.approx(1.0)


def test_e_value_of_nothing_is_one_and_of_very_much_is_finite() -> None:
    assert beta_mixture_e_value(0, 0) == pytest.approx(1.0)
    assert math.isfinite(beta_mixture_e_value(100_000, 0))


def chance_of_a_false_winner(is_declared: Callable[[int, int], bool], *, looks: int) -> float:
    """Exact: the null's random walk of wins, absorbed wherever the rule, looked at after every vote, declares a winner."""
    alive, fooled = np.array([1.0]), 0.0
    for n in range(1, looks + 1):
        alive = np.convolve(alive, [0.5, 0.5])
        declared = np.array([is_declared(wins, n - wins) for wins in range(n + 1)])
        fooled += float(alive[declared].sum())
        alive[declared] = 0.0
    return fooled


def test_testing_after_every_vote_rarely_declares_a_false_winner() -> None:
    def by_e_value(wins: int, losses: int) -> bool:
        return beta_mixture_e_value(wins, losses) >= 20

    def by_z_test(wins: int, losses: int) -> bool:
        return wins + losses >= 10 and abs(wins - losses) > 1.96 * math.sqrt(wins + losses)

    assert chance_of_a_false_winner(by_e_value, looks=500) < 0.05
    assert chance_of_a_false_winner(by_z_test, looks=500) > 0.3


@pytest.mark.parametrize(("gap", "votes"), [(20, 2367), (35, 771), (50, 377), (100, 93), (150, 40)])
def test_a_single_test_needs_the_published_number_of_votes(gap: float, votes: int) -> None:
    assert votes_for_gap(gap) == votes
    assert votes_for_gap(gap, design_effect=2.8) == pytest.approx(2.8 * votes, abs=3)


def test_a_clear_winner_is_better_and_needs_no_more_votes() -> None:
    verdict = pair_verdict(votes_on_prompts("A" * 18 + "B" * 2), "new", "old")
    assert verdict.outcome == "better"
    assert verdict.sentence.startswith("new is better than old: new earned 90% of 20 votes")
    assert verdict.e_value >= verdict.threshold == 20
    assert (verdict.votes_needed, verdict.prompts_needed, verdict.prompts_won, verdict.prompts_lost) == (0, 0, 18, 2)


def test_the_loser_is_worse() -> None:
    verdict = pair_verdict(votes_on_prompts("A" * 18 + "B" * 2), "old", "new")
    assert verdict.outcome == "worse"
    assert verdict.share.value == pytest.approx(0.1)


def test_ten_raters_on_three_prompts_decide_nothing() -> None:
    verdict = pair_verdict(votes_on_prompts("AAA", raters=10), "new", "old")
    assert (verdict.votes, verdict.prompts, verdict.outcome) == (30, 3, "undecided")
    assert verdict.share.low is not None
    assert verdict.share.low < 0.5


def test_an_undecided_pair_states_the_votes_needed() -> None:
    verdict = pair_verdict(votes_on_prompts("AABTAB" * 5), "new", "old", seconds_per_vote=37)
    assert verdict.outcome == "undecided"
    assert verdict.votes_needed >= verdict.prompts_needed > 100
    assert verdict.seconds_needed == pytest.approx(37 * verdict.votes_needed)
    assert f"About {verdict.votes_needed:,} more votes on {verdict.prompts_needed:,} new prompts" in verdict.sentence
    assert "35 Elo" in verdict.sentence


def test_a_wider_gap_needs_fewer_votes() -> None:
    votes = votes_on_prompts("AABTAB" * 5)
    needed = [pair_verdict(votes, "new", "old", smallest_gap_elo=gap).votes_needed for gap in (20, 35, 100)]
    assert needed == sorted(needed, reverse=True)
    assert needed[0] > 5 * needed[2]


def test_prompts_that_divide_the_raters_need_more_prompts() -> None:
    verdict = pair_verdict(votes_on_prompts("AB" * 10, raters=6), "new", "old")
    assert verdict.needs_prompts
    assert "add prompts" in verdict.sentence


def test_many_even_votes_show_that_the_gap_is_small() -> None:
    verdict = pair_verdict(votes_on_prompts("AB" * 1500), "new", "old")
    assert (verdict.outcome, verdict.votes_needed) == ("undecided", 0)
    assert "probably smaller" in verdict.sentence


def test_the_planned_prompts_detect_a_true_gap_with_the_stated_power() -> None:
    rng = np.random.default_rng(4)
    gap = 150.0
    share = 1 / (1 + 10 ** (-gap / 400))
    planned = pair_verdict([], "new", "old", smallest_gap_elo=gap).prompts_needed
    wins = rng.binomial(planned, share, size=400)
    settled = sum(beta_mixture_e_value(int(count), planned - int(count)) >= 20 for count in wins) / 400
    assert 0.65 < settled < 0.95


def test_no_votes_are_undecided_and_plan_from_nothing() -> None:
    verdict = pair_verdict([VoteRecord("p", "r", "new", "third", "A")], "new", "old")
    assert (verdict.outcome, verdict.votes, verdict.e_value) == ("undecided", 0, pytest.approx(1.0))
    assert (verdict.share.low, verdict.share.high) == (0.0, 1.0)
    assert "no vote compares new with old yet" in verdict.sentence
    assert verdict.votes_needed > votes_for_gap(35)


def test_ties_and_both_bad_are_counted_apart_and_decide_nothing() -> None:
    verdict = pair_verdict(votes_on_prompts("TX" * 20), "new", "old")
    assert (verdict.ties, verdict.both_bad, verdict.outcome) == (20, 20, "undecided")
    assert verdict.share.value == 0.5
    assert verdict.share.low is not None
    assert verdict.share.low < 0.5


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["A", "B", "TIE", "BOTH_BAD"])), min_size=1, max_size=40))
def test_swapping_contestants_mirrors_the_verdict(cast: list[tuple[int, str]]) -> None:
    votes = [VoteRecord(f"p{prompt}", f"r{place}", "new", "old", winner) for place, (prompt, winner) in enumerate(cast)]
    swapped = [VoteRecord(vote.prompt, vote.rater, vote.b, vote.a, SWAPPED.get(vote.winner, vote.winner)) for vote in votes]
    one, other, same = pair_verdict(votes, "new", "old"), pair_verdict(votes, "old", "new"), pair_verdict(swapped, "new", "old")
    assert one == same
    assert one.share.value == pytest.approx(1 - other.share.value)
    assert {one.outcome, other.outcome} in ({"undecided"}, {"better", "worse"})
    assert one.share.low is not None
    assert one.share.high is not None
    assert 0 <= one.share.low <= one.share.value <= one.share.high <= 1
    assert one.votes_needed == pytest.approx(other.votes_needed, abs=len(cast))


def test_invalid_arguments_are_refused() -> None:
    votes = votes_on_prompts("AB")
    with pytest.raises(InvalidInput, match="'new' can't be compared with itself"):
        pair_verdict(votes, "new", "new")
    with pytest.raises(InvalidInput, match="smallest gap of 0"):
        pair_verdict(votes, "new", "old", smallest_gap_elo=0)
    with pytest.raises(InvalidInput, match=r"alpha 1\.5"):
        pair_verdict(votes, "new", "old", alpha=1.5)
    with pytest.raises(InvalidInput, match="winner 'left' is unknown"):
        pair_verdict([VoteRecord("p", "r", "new", "old", "left")], "new", "old")
