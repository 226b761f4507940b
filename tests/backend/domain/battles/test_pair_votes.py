"""Votes of a pair from arrays and from records, and the outcome without each rater against leaving out one after the
other.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from backend.domain.battles.inference.evidence import e_value, outcomes_without
from backend.domain.battles.verdicts import PairVotes, is_decided, judge_pair, pair_verdict, pair_votes, votes_by_pair
from backend.domain.battles.votes import VoteRecord, encode_votes


def simulate(
    rng: np.random.Generator, *, prompts: int, raters: int, votes: int, share: float, repeats: bool = False
) -> list[VoteRecord]:
    """Votes on three contestants with shuffled sides; the first by name earns `share`."""
    records = []
    for item in rng.choice(prompts * raters * 3, size=votes, replace=repeats):
        first, second = (("x", "y"), ("x", "z"), ("y", "z"))[item % 3]
        a, b = (first, second) if rng.random() < 0.5 else (second, first)
        tied, won = rng.random() < 0.2, rng.random() < share
        winner = str(rng.choice(["TIE", "BOTH_BAD"])) if tied else "A" if won == (a == first) else "B"
        prompt, rater = divmod(int(item) // 3, raters)
        records.append(
            VoteRecord(f"p{prompt}", f"r{rater}", a, b, winner, identical=winner == "TIE" and rng.random() < 0.3)
        )
    return records


def without(pair: PairVotes, rater: int) -> PairVotes:
    """The votes of the other raters."""
    others = pair.rater != rater
    return replace(
        pair,
        points=pair.points[others],
        prompt=np.unique(pair.prompt[others], return_inverse=True)[1],
        rater=pair.rater[others],
    )


def outcome(pair: PairVotes, *, alpha: float) -> int:
    """The outcome by prompts alone: 1 for the first, -1 for the second, 0 undecided."""
    verdict = judge_pair(pair, "x", "y", smallest_gap_elo=35, alpha=alpha, num_pairs=1, seconds_per_vote=None)
    return {"better": 1, "worse": -1, "undecided": 0}[verdict.for_these_raters]


@pytest.mark.parametrize("repeats", [False, True], ids=["one vote on a prompt", "several votes on a prompt"])
@pytest.mark.parametrize(("prompts", "raters", "votes"), [(40, 6, 500), (60, 2, 200)])
def test_leaving_out_all_raters_at_once_is_leaving_out_one_after_the_other(
    prompts: int, raters: int, votes: int, repeats: bool
) -> None:
    changed = 0
    for seed in range(3):
        records = simulate(
            np.random.default_rng(seed), prompts=prompts, raters=raters, votes=votes, share=0.72, repeats=repeats
        )
        for pair in votes_by_pair(encode_votes(records)).values():
            outcomes = outcomes_without(pair.points, pair.prompt, pair.rater, alpha=0.05 / 3)
            expected = [outcome(without(pair, rater), alpha=0.05 / 3) for rater in range(len(pair.raters))]
            assert outcomes.tolist() == expected
            changed += len(set(expected)) > 1
    assert changed


def test_pairs_from_arrays_are_the_pairs_from_records() -> None:
    records = simulate(np.random.default_rng(5), prompts=20, raters=5, votes=280, share=0.6)
    by_pair = votes_by_pair(encode_votes(records))
    assert sorted(by_pair) == [("x", "y"), ("x", "z"), ("y", "z")]
    for (first, second), pair in by_pair.items():
        listed = pair_votes(records, first, second)
        assert pair.points.tolist() == listed.points.tolist()
        assert [pair.raters[code] for code in pair.rater] == [listed.raters[code] for code in listed.rater]
        assert (pair.ties, pair.both_bad, pair.identical, pair.identical_prompts) == (
            listed.ties,
            listed.both_bad,
            listed.identical,
            listed.identical_prompts,
        )
        assert e_value(pair.points, pair.prompt) == pytest.approx(e_value(listed.points, listed.prompt))
        assert pair.swapped().points.tolist() == pair_votes(records, second, first).points.tolist()
        assert is_decided(pair, alpha=0.05) == (pair_verdict(records, first, second).outcome != "undecided")
