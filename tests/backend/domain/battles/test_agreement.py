"""Agreement against Krippendorff's own table, evalica, and worked examples."""

from __future__ import annotations

from dataclasses import replace

import evalica
import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from backend.domain.battles.agreement import (
    canonical_label,
    cohen_kappa,
    gwet_ac1,
    judge_agreement,
    krippendorff_alpha,
    percent_agreement,
    pooled_kappa,
    vote_agreement,
)
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
    assert (result.num_pairs, result.num_decisive_pairs) == (4, 1)
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


def test_ac1_of_gwets_table_is_the_published_one() -> None:
    estimate = gwet_ac1(units_of(TEXTBOOK))
    assert estimate is not None
    assert estimate.value == pytest.approx(0.77544, abs=1e-5)
    assert estimate.stderr == pytest.approx(0.14295, abs=0.03)


def test_ac1_holds_where_one_label_dominates_and_alpha_collapses() -> None:
    units = [["x", "x"]] * 96 + [["x", "y"]] * 4
    ac1, alpha = gwet_ac1(units), krippendorff_alpha(units)
    assert ac1 is not None
    assert alpha is not None
    assert ac1.value > 0.95
    assert alpha.value < 0.05
    assert gwet_ac1([["x", "x"]]) is None
    assert gwet_ac1([["x"], ["y"]]) is None


def test_pooled_kappa_is_cohens() -> None:
    pairs = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    estimate = pooled_kappa(pairs)
    assert estimate is not None
    assert estimate.value == pytest.approx(0.4) == cohen_kappa([one for one, _ in pairs], [other for _, other in pairs])
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.low < 0.4 < estimate.high
    assert pooled_kappa([("x", "x")] * 3) is None
    assert pooled_kappa([]) is None


def test_battles_of_one_prompt_widen_the_interval() -> None:
    rng = np.random.default_rng(1)
    hard = rng.random(20) < 0.5
    units = [["x", "y" if hard[prompt] else "x"] for prompt in range(20) for _ in range(10)]
    apart, together = (percent_agreement(units, clusters=clusters) for clusters in (None, [place // 10 for place in range(200)]))
    assert apart is not None
    assert together is not None
    assert apart.stderr is not None
    assert together.stderr is not None
    assert together.stderr == pytest.approx(apart.stderr * 10**0.5, rel=0.1)


def test_two_turns_of_a_prompt_are_two_battles() -> None:
    first = VoteRecord("p", "r1", "x", "y", "A", turn="1")
    votes = [first, replace(first, turn="2", winner="B"), replace(first, rater="r2"), replace(first, rater="r2", turn="2", winner="B")]
    result = vote_agreement(votes)
    assert (result.num_items, result.num_pairs) == (2, 2)
    assert result.percent_agreement is not None
    assert result.percent_agreement.value == 1.0


def test_a_judge_is_compared_with_each_raters_vote_and_with_none_of_its_own() -> None:
    votes = [
        VoteRecord("p1", "r1", "x", "y", "A"),
        VoteRecord("p1", "r2", "x", "y", "TIE"),
        VoteRecord("p2", "r1", "x", "y", "B"),
        VoteRecord("p3", "r1", "x", "y", "A"),
        VoteRecord("p1", "judge", "y", "x", "B"),
        VoteRecord("p2", "judge", "x", "y", "A"),
        VoteRecord("p4", "judge", "x", "y", "A"),
    ]
    result = judge_agreement(votes, "judge")
    assert (result.num_pairs, result.num_decisive_pairs, result.num_items) == (3, 2, 2)
    assert result.percent_agreement is not None
    assert result.without_ties is not None
    assert (result.percent_agreement.value, result.without_ties.value) == (pytest.approx(1 / 3), 0.5)
    assert result.flips is None


def test_a_judge_that_prefers_the_first_answer_in_both_orders_is_inconsistent_and_ties() -> None:
    votes = []
    for place in range(10):
        votes += [VoteRecord(f"p{place}", "judge", "x", "y", "A"), VoteRecord(f"p{place}", "judge", "y", "x", "A" if place < 4 else "B")]
        votes.append(VoteRecord(f"p{place}", "r", "x", "y", "TIE" if place < 4 else "A"))
    result = judge_agreement(votes, "judge")
    assert result.flips is not None
    assert result.flips.value == pytest.approx(0.4)
    assert result.percent_agreement is not None
    assert result.percent_agreement.value == 1.0
    with pytest.raises(InvalidInput, match="No vote is by 'other'"):
        judge_agreement(votes, "other")
