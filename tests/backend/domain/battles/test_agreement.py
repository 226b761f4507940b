"""Agreement of raters on contestants: sides, ties, repeated votes, and a judge beside them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from backend.domain.battles.agreement import canonical_label, judge_agreement, vote_agreement
from backend.domain.battles.votes import VoteRecord
from backend.domain.statistics.agreement import Resampling
from backend.errors import InvalidInput

SWAPPED = {"A": "B", "B": "A"}


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
    assert result.percent_agreement.value == pytest.approx(2 / 4)
    assert result.without_ties is not None
    assert result.without_ties.value == 1.0


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


def test_two_turns_of_a_prompt_are_two_battles() -> None:
    first = VoteRecord("p", "r1", "x", "y", "A", turn="1")
    votes = [
        first,
        replace(first, turn="2", winner="B"),
        replace(first, rater="r2"),
        replace(first, rater="r2", turn="2", winner="B"),
    ]
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
        votes += [
            VoteRecord(f"p{place}", "judge", "x", "y", "A"),
            VoteRecord(f"p{place}", "judge", "y", "x", "A" if place < 4 else "B"),
        ]
        votes.append(VoteRecord(f"p{place}", "r", "x", "y", "TIE" if place < 4 else "A"))
    result = judge_agreement(votes, "judge")
    assert result.flips is not None
    assert result.flips.value == pytest.approx(0.4)
    assert result.percent_agreement is not None
    assert result.percent_agreement.value == 1.0
    with pytest.raises(InvalidInput, match="No vote is by 'other'"):
        judge_agreement(votes, "other")


def coincidence_alpha(votes: list[VoteRecord]) -> float:
    """Krippendorff's alpha by the matrix of coincidences, o_ck = sum_u pairs(c, k) / (m_u - 1), as the package
    krippendorff computes it.

    Second implementation: 1 - (n - 1) * (off-diagonal o) / (off-diagonal n_c n_k).
    """
    units = defaultdict(list)
    for vote in votes:
        item, label = canonical_label(vote)
        units[item].append(label)
    names = sorted({label for labels in units.values() for label in labels})
    coincidences = np.zeros((len(names), len(names)))
    for labels in units.values():
        for one, other in permutations(labels, 2):
            coincidences[names.index(one), names.index(other)] += 1 / (len(labels) - 1)
    totals = coincidences.sum(0)
    off = ~np.eye(len(names), dtype=bool)
    return float(1 - (totals.sum() - 1) * coincidences[off].sum() / np.outer(totals, totals)[off].sum())


def test_alpha_is_that_of_the_coincidences_whatever_the_order_of_votes_and_sides() -> None:
    rng = np.random.default_rng(3)
    judged = [(f"p{prompt}", f"r{rater}") for prompt in range(30) for rater in range(6) if rng.random() < 0.6]
    votes = [VoteRecord(*names, "x", "y", str(rng.choice(["A", "A", "B", "TIE", "BOTH_BAD"]))) for names in judged]
    expected = coincidence_alpha(votes)
    mirrored = [replace(vote, a=vote.b, b=vote.a, winner=SWAPPED.get(vote.winner, vote.winner)) for vote in votes]
    shuffled = [(mirrored if rng.random() < 0.5 else votes)[place] for place in rng.permutation(len(votes))]
    for order in (votes, votes[::-1], mirrored, shuffled):
        alpha = vote_agreement(order, resampling=Resampling(0)).alpha
        assert alpha is not None
        assert alpha.value == pytest.approx(expected, abs=1e-12)
