"""Agreement against Krippendorff's own table, evalica, and worked examples."""

from __future__ import annotations

from dataclasses import replace

import evalica
import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from backend.domain.battles.agreement import canonical_label, cohen_kappa, krippendorff_alpha, percent_agreement, vote_agreement
from backend.domain.battles.ratings import VoteRecord
from backend.errors import InvalidInput

NAN = float("nan")
TEXTBOOK = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
    [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
]
SWAPPED = {"A": "B", "B": "A"}


def units_of(table: list[list[float]]) -> list[list[float]]:
    return [[value for value in column if not np.isnan(value)] for column in np.array(table).T]


def test_alpha_of_krippendorffs_table_is_krippendorffs() -> None:
    estimate = krippendorff_alpha(units_of(TEXTBOOK))
    assert estimate is not None
    assert estimate.value == pytest.approx(0.743421, abs=1e-6)
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.low < 0.743421 < estimate.high


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0, 2.0, NAN]), min_size=6, max_size=6), min_size=2, max_size=4))
def test_alpha_equals_evalicas(table: list[list[float]]) -> None:
    ours = krippendorff_alpha(units_of(table), num_resamples=10)
    assume(ours is not None)
    assert ours is not None
    theirs = evalica.alpha(pd.DataFrame(table), solver="naive")
    assert ours.value == pytest.approx(theirs.alpha, abs=1e-9)


def test_perfect_agreement_is_one_and_one_label_alone_is_undefined() -> None:
    perfect = krippendorff_alpha([["x", "x"], ["y", "y"], ["x", "x"]])
    assert perfect is not None
    assert perfect.value == pytest.approx(1.0)
    assert krippendorff_alpha([["x", "x"], ["x", "x"]]) is None
    assert krippendorff_alpha([["x"], ["y"]]) is None


def test_chance_agreement_is_about_zero() -> None:
    labels = np.random.default_rng(0).integers(3, size=(400, 3)).tolist()
    estimate = krippendorff_alpha(labels)
    assert estimate is not None
    assert estimate.value == pytest.approx(0.0, abs=0.06)


def test_percent_agreement_counts_pairs_of_raters() -> None:
    estimate = percent_agreement([["x", "x", "y"], ["y", "y"], ["x"]])
    assert estimate is not None
    assert estimate.value == pytest.approx(2 / 4)
    assert estimate.n == 2


def test_full_agreement_on_three_items_is_not_certain() -> None:
    estimate = percent_agreement([["x", "x"], ["y", "y"], ["x", "x"]])
    assert estimate is not None
    assert (estimate.value, estimate.high) == (1.0, 1.0)
    assert estimate.low is not None
    assert estimate.low < 0.5


def test_raters_who_saw_the_sides_swapped_agree_on_the_contestant() -> None:
    votes = [VoteRecord(f"p{place}", "r1", "x", "y", "AB"[place % 2]) for place in range(6)]
    mirrored = [VoteRecord(vote.prompt, "r2", vote.b, vote.a, SWAPPED[vote.winner]) for vote in votes]
    result = vote_agreement(votes + mirrored)
    assert result.alpha is not None
    assert result.alpha.value == pytest.approx(1.0)
    assert result.percent_agreement is not None
    assert result.percent_agreement.value == 1.0


def test_raters_who_always_click_left_do_not_agree() -> None:
    votes = [VoteRecord(f"p{place}", "r1", "x", "y", "A") for place in range(6)]
    mirrored = [VoteRecord(vote.prompt, "r2", "y", "x", "A") for vote in votes]
    result = vote_agreement(votes + mirrored)
    assert result.alpha is not None
    assert result.alpha.value < 0
    assert result.percent_agreement is not None
    assert result.percent_agreement.value == 0.0


def test_ties_are_counted_apart() -> None:
    votes = [
        VoteRecord("p1", "r1", "x", "y", "A"),
        VoteRecord("p1", "r2", "x", "y", "A"),
        VoteRecord("p1", "r3", "x", "y", "TIE"),
        VoteRecord("p2", "r1", "x", "y", "BOTH_BAD"),
        VoteRecord("p2", "r2", "x", "y", "TIE"),
        VoteRecord("p3", "r2", "x", "y", "B"),
    ]
    result = vote_agreement(votes)
    assert (result.num_items, result.num_raters, result.num_votes) == (2, 3, 5)
    assert result.percent_agreement is not None
    assert result.percent_agreement.value == pytest.approx(1 / 4)
    assert result.without_ties is not None
    assert result.without_ties.value == 1.0
    merged = vote_agreement(votes, both_bad_is_tie=True)
    assert merged.percent_agreement is not None
    assert merged.percent_agreement.value == pytest.approx(2 / 4)


def test_a_rater_who_votes_twice_counts_with_the_later_vote() -> None:
    first = VoteRecord("p", "r1", "x", "y", "A")
    result = vote_agreement([first, replace(first, winner="B"), replace(first, rater="r2", winner="B")])
    assert result.num_votes == 2
    assert result.percent_agreement is not None
    assert result.percent_agreement.value == 1.0


def test_votes_without_overlap_give_no_agreement() -> None:
    result = vote_agreement([VoteRecord(f"p{place}", "r", "x", "y", "A") for place in range(3)])
    assert (result.alpha, result.percent_agreement, result.without_ties, result.num_items) == (None, None, None, 0)


def test_an_unknown_label_has_no_canonical_form() -> None:
    with pytest.raises(InvalidInput, match="'left'"):
        canonical_label(VoteRecord("p", "r", "x", "y", "left"))


def test_kappa_of_the_grant_example_is_two_fifths() -> None:
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert cohen_kappa(first, second) == pytest.approx(0.4)


def test_kappa_joins_two_raters_on_the_items_they_share() -> None:
    first = {"p1": "x", "p2": "y", "p3": "x", "p9": "y"}
    second = {"p2": "y", "p1": "x", "p3": "y", "p7": "x"}
    assert cohen_kappa(first, second) == pytest.approx(cohen_kappa(["x", "y", "x"], ["x", "y", "y"]))
    assert cohen_kappa({"p1": "x"}, {"p2": "x"}) is None
    assert cohen_kappa(["x", "x"], ["x", "x"]) is None
