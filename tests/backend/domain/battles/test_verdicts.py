"""Verdicts: outcomes that stand at any stopping time, and sentences a lead can act on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from backend.domain.battles.inference.plans import checked_gap, one_look_votes, plan_options
from backend.domain.battles.verdicts import PairVotes, is_decided, pair_verdict, verdict_path
from backend.domain.battles.votes import VoteRecord
from backend.domain.wording import about
from backend.errors import InvalidInput

SWAPPED = {"A": "B", "B": "A"}


def votes_on_prompts(labels: str, *, raters: int = 1, people: int = 10) -> list[VoteRecord]:
    """One prompt per letter (A: new wins, B: old wins, T: tie, X: both bad), the same from this many raters; `people`
    raters in turn.
    """
    names = {"T": "TIE", "X": "BOTH_BAD"}
    return [
        VoteRecord(f"p{place}", f"r{(place + rater) % max(people, raters)}", "new", "old", names.get(letter, letter))
        for place, letter in enumerate(labels)
        for rater in range(raters)
    ]


def leaning_votes(
    rng: np.random.Generator, *, prompts: int, raters: int, leaning: float, gap: float = 0.0
) -> PairVotes:
    """Votes rater after rater, each on all prompts: prompts and raters favour a side by normal log-odds, a fifth are
    ties.
    """
    odds = gap + 0.8 * rng.standard_normal(prompts)[None, :] + leaning * rng.standard_normal(raters)[:, None]
    points = (rng.random((raters, prompts)) < 1 / (1 + np.exp(-odds))).astype(np.float64)
    points[rng.random((raters, prompts)) < 0.2] = 0.5
    names = tuple(f"r{rater}" for rater in range(raters))
    return PairVotes(
        points.ravel(), np.tile(np.arange(prompts), raters), np.repeat(np.arange(raters), prompts), names, 0, 0, 0, 0
    )


def first_votes(pair: PairVotes, number: int) -> PairVotes:
    """The pair as it stood after this many votes."""
    return PairVotes(pair.points[:number], pair.prompt[:number], pair.rater[:number], pair.raters, 0, 0, 0, 0)


@pytest.mark.parametrize(("prompts", "raters"), [(60, 10), (50, 20), (200, 3)])
def test_raters_who_lean_and_vote_one_after_the_other_rarely_make_a_false_winner(prompts: int, raters: int) -> None:
    rng, campaigns = np.random.default_rng(prompts), 40
    fooled = 0
    for _ in range(campaigns):
        pair = leaning_votes(rng, prompts=prompts, raters=raters, leaning=0.8)
        fooled += any(is_decided(first_votes(pair, look), alpha=0.05) for look in range(20, len(pair.points) + 1, 20))
    assert fooled <= stats.binom.ppf(0.99, campaigns, 0.05)


def test_raters_who_do_not_lean_still_find_a_winner() -> None:
    rng = np.random.default_rng(3)
    decided = [
        is_decided(leaning_votes(rng, prompts=100, raters=10, leaning=0.0, gap=0.8), alpha=0.05) for _ in range(20)
    ]
    assert np.mean(decided) >= 0.8


def test_what_one_rater_prefers_is_said_of_this_rater_alone() -> None:
    verdict = pair_verdict(votes_on_prompts("A" * 36 + "B" * 4, people=1), "new", "old")
    assert (verdict.outcome, verdict.for_these_raters, verdict.raters) == ("undecided", "better", 1)
    assert verdict.e_value > verdict.threshold > 1 > verdict.rater_e_value
    assert "The one rater who voted prefers new; others may not" in verdict.sentence
    assert verdict.raters_needed > 0
    assert verdict.needed_at_gap is not None
    assert f"would settle a gap of {verdict.needed_at_gap.gap_elo:.0f} rating points" in verdict.sentence
    assert f" A gap of 35 needs {about(verdict.votes_needed)} votes." in verdict.sentence
    assert verdict.needed_at_gap.raters < verdict.raters_needed


def test_few_raters_decide_for_themselves_and_many_for_others_like_them() -> None:
    few, many = (pair_verdict(votes_on_prompts("AAAAAAAABT" * 12, people=people), "new", "old") for people in (2, 12))
    assert (few.outcome, few.for_these_raters) == ("undecided", "better")
    assert (many.outcome, many.for_these_raters) == ("better", "better")
    assert "The 2 raters who voted prefer new" in few.sentence
    assert "for raters like these" in many.sentence


def test_a_clear_winner_is_better_and_needs_no_more_votes() -> None:
    verdict = pair_verdict(votes_on_prompts("A" * 36 + "B" * 4), "new", "old")
    assert verdict.outcome == "better"
    assert verdict.sentence.startswith("new is better than old: new earned 90 % of 40 votes")
    assert verdict.e_value >= verdict.threshold == 20
    assert (verdict.votes_needed, verdict.prompts_needed, verdict.prompts_won, verdict.prompts_lost) == (0, 0, 36, 4)


def test_the_loser_is_worse() -> None:
    verdict = pair_verdict(votes_on_prompts("A" * 36 + "B" * 4), "old", "new")
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
    at_gap = verdict.needed_at_gap
    assert at_gap is not None
    assert at_gap.gap_elo == pytest.approx(400 * math.log10((17.5 + 1) / (12.5 + 1)))
    votes, prompts, raters = map(about, (at_gap.votes, at_gap.prompts, at_gap.raters))
    assert f"About {votes} more votes by {raters} new raters and with {prompts} new prompts" in verdict.sentence
    assert (
        "would settle a gap of 55 rating points, a cautious reading of these votes: as if each side had won one more."
        f" A gap of 35 needs {about(verdict.votes_needed)} votes."
    ) in verdict.sentence


def test_many_raters_are_needed_where_they_differ_and_the_verdict_says_so() -> None:
    def vote(prompt: int, rater: int, winner: str) -> VoteRecord:
        return VoteRecord(prompt=f"p{prompt}", rater=f"r{rater}", a="new", b="old", winner=winner)

    split = [vote(prompt, rater, "A" if rater < 2 else "B") for prompt in range(8) for rater in range(3)]
    alike = [vote(prompt, rater, "A" if prompt % 3 else "B") for prompt in range(8) for rater in range(3)]
    differing, agreeing = (pair_verdict(votes, "new", "old") for votes in (split, alike))
    assert differing.leaning > 2 * agreeing.leaning
    assert differing.needed_first.raters > 2 * agreeing.needed_first.raters
    assert "because they differ in what they prefer, as far as 3 raters can tell" in differing.sentence
    assert "differ" not in agreeing.sentence
    plan = plan_options(
        gaps=(differing.needed_first.gap_elo,),
        spread=differing.spread,
        leaning=differing.leaning,
        votes_per_rater=differing.decisive_per_rater,
        cast_per_rater=differing.votes_per_rater,
    )
    total = next(option.votes for option in plan if option.design == "new_prompts")
    assert total == differing.needed_first.votes + 24, "what was cast, and what is needed more"


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
    verdict = pair_verdict(votes_on_prompts("AAB" * 500 + "ABB" * 500, people=100), "new", "old")
    assert (verdict.outcome, verdict.votes_needed) == ("undecided", 0)
    assert "probably smaller" in verdict.sentence


def test_no_votes_are_undecided_and_plan_from_nothing() -> None:
    verdict = pair_verdict([VoteRecord("p", "r", "new", "third", "A")], "new", "old")
    assert (verdict.outcome, verdict.votes, verdict.e_value) == ("undecided", 0, pytest.approx(0.75))
    assert (verdict.share.low, verdict.share.high) == (0.0, 1.0)
    assert "no vote compares new with old yet" in verdict.sentence
    assert verdict.votes_needed > one_look_votes(0.25, delta=checked_gap(35), alpha=0.05)


def test_ties_and_both_bad_are_counted_apart_and_decide_nothing() -> None:
    verdict = pair_verdict(votes_on_prompts("TX" * 20), "new", "old")
    assert (verdict.ties, verdict.both_bad, verdict.outcome) == (20, 20, "undecided")
    assert verdict.share.value == 0.5
    assert verdict.share.low is not None
    assert verdict.share.low < 0.5


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["A", "B", "TIE", "BOTH_BAD"])), min_size=1, max_size=40))
def test_swapping_contestants_mirrors_the_verdict(cast: list[tuple[int, str]]) -> None:
    votes = [VoteRecord(f"p{prompt}", f"r{place}", "new", "old", winner) for place, (prompt, winner) in enumerate(cast)]
    swapped = [
        VoteRecord(vote.prompt, vote.rater, vote.b, vote.a, SWAPPED.get(vote.winner, vote.winner)) for vote in votes
    ]
    one, other, same = (
        pair_verdict(votes, "new", "old"),
        pair_verdict(votes, "old", "new"),
        pair_verdict(swapped, "new", "old"),
    )
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
    with pytest.raises(InvalidInput, match="0 pairs"):
        pair_verdict(votes, "new", "old", num_pairs=0)
    with pytest.raises(InvalidInput, match="winner 'left' is unknown"):
        pair_verdict([VoteRecord("p", "r", "new", "old", "left")], "new", "old")


def test_identical_answers_are_ties_of_the_share_and_are_named() -> None:
    cast = votes_on_prompts("A" * 24 + "B" * 16, raters=2)
    equal = [VoteRecord(f"equal{place}", f"r{place % 2}", "new", "old", "TIE", identical=True) for place in range(320)]
    alone, verdict = pair_verdict(cast, "new", "old"), pair_verdict([*equal, *cast], "new", "old")
    assert alone.share.value == pytest.approx(0.6)
    assert verdict.share.value == pytest.approx(0.8 * 0.5 + 0.2 * 0.6)
    assert (verdict.votes, verdict.prompts, verdict.ties, verdict.identical) == (400, 360, 320, 320)
    assert (verdict.e_value, verdict.raters) == (alone.e_value, 10)
    assert (verdict.num_cast, verdict.num_cast_prompts) == (80, 40)
    assert verdict.cast_share.value == pytest.approx(0.6)
    bounds = [(alone.share.low, alone.share.high), (verdict.cast_share.low, verdict.cast_share.high)]
    assert bounds[0] == pytest.approx(bounds[1])
    assert "new earned 60 % of 80 votes" in verdict.sentence
    assert "on 40 prompts; 52 % with 320 identical answers as ties" in verdict.sentence
    assert "400 votes" not in verdict.sentence
    assert verdict.needed.prompts * 0.2 <= verdict.votes_needed + 1


def test_identical_answers_alone_are_even() -> None:
    verdict = pair_verdict([VoteRecord("p", "", "new", "old", "TIE", identical=True)], "new", "old")
    assert (verdict.outcome, verdict.votes, verdict.identical) == ("undecided", 1, 1)
    assert "1 prompt got identical answers" in verdict.sentence


def test_both_bad_votes_are_named_in_the_sentence() -> None:
    verdict = pair_verdict(votes_on_prompts("AAAAATTXXX"), "new", "old")
    assert "counting 2 ties and 3 both bad as half" in verdict.sentence


def test_the_level_of_several_pairs_is_stated_with_its_correction() -> None:
    votes = votes_on_prompts("A" * 36 + "B" * 4)
    single, several = pair_verdict(votes, "new", "old"), pair_verdict(votes, "new", "old", num_pairs=3)
    assert (single.level, several.level) == (0.95, pytest.approx(1 - 0.05 / 3))
    assert several.threshold == pytest.approx(60)
    assert several.share.low is not None
    assert single.share.low is not None
    assert several.share.low < single.share.low
    assert "(95 % interval for these raters," in single.sentence
    assert "(98.33 % interval for these raters, 3 pairs by Bonferroni," in several.sentence
    assert "98.33 %, valid at any stopping time" in several.share.method


def test_a_verdict_that_rests_on_one_rater_says_so() -> None:
    others = [VoteRecord(f"p{place}", f"r{place % 5}", "new", "old", "A" if place < 40 else "B") for place in range(50)]
    sixth = [VoteRecord(f"q{place}", "sixth", "new", "old", "AAAAAB"[place % 6]) for place in range(12)]
    spread = [VoteRecord(f"p{place}", f"r{place % 16}", "new", "old", "A") for place in range(64)]
    assert pair_verdict(others, "new", "old").outcome == "undecided"
    verdict = pair_verdict([*others, *sixth], "new", "old")
    assert (verdict.outcome, verdict.rests_on) == ("better", "sixth")
    assert "Without one rater's votes it would be undecided." in verdict.sentence
    assert pair_verdict(spread, "new", "old").rests_on is None


def test_the_path_ends_at_the_verdict_and_reads_the_pairs_votes_alone() -> None:
    votes = [*votes_on_prompts("AABA", raters=5), VoteRecord("p", "r", "new", "third", "B")]
    path = verdict_path(votes, "new", "old")
    assert len(path) == 20
    assert path[-1] == pair_verdict(votes, "new", "old").e_value
    assert path[:4] == pytest.approx(verdict_path(votes[:4], "new", "old"))


@pytest.mark.parametrize("leanings", [(2.2, 0.3, -1.0), (2.5, -1.5)])
def test_the_interval_holds_the_average_of_raters_who_vote_one_after_the_other(
    leanings: tuple[float, ...],
) -> None:
    """It held it in 50 to 56 % of campaigns, as a prompt's first votes were all of one rater."""
    rng = np.random.default_rng(5)
    prompts, ease = range(40), rng.normal(0, 0.5, 100_000)
    average = np.mean([(1 / (1 + np.exp(-ease - leaning))).mean() for leaning in leanings])
    held = 0
    for _ in range(60):
        gaps = rng.normal(0, 0.5, len(prompts))
        votes = [
            VoteRecord(f"p{p}", f"r{r}", "new", "old", "A" if rng.random() < 1 / (1 + np.exp(-gaps[p] - lean)) else "B")
            for r, lean in enumerate(leanings)
            for p in prompts
        ]
        share = pair_verdict(votes, "new", "old").share
        held += (share.low or 0.0) <= average <= (share.high or 1.0)
    assert held >= 54  # at 95 %, fewer have a chance of 2 in 100


@pytest.mark.parametrize("won", [(56, 46, 24), (55, 35)])
def test_the_interval_of_raters_of_unlike_taste_is_the_same_in_any_order_and_holds_the_share_inside(
    won: tuple[int, ...],
) -> None:
    votes = [
        VoteRecord(f"p{prompt}", f"rater{rater}", "new", "old", "A" if prompt < wins else "B")
        for rater, wins in enumerate(won)
        for prompt in range(60)
    ]
    shares = [pair_verdict(ordered, "new", "old").share for ordered in (votes, votes[::-1])]
    assert [share.value for share in shares] == pytest.approx([sum(won) / len(votes)] * 2)
    assert shares[0].low == pytest.approx(shares[1].low)
    assert shares[0].high == pytest.approx(shares[1].high)
    for share in shares:
        assert share.low is not None
        assert share.high is not None
        assert share.low + 0.04 < share.value < share.high - 0.04


def test_early_and_late_votes_that_contradict_each_other_decide_nothing() -> None:
    first = votes_on_prompts("A" * 40)
    later = [VoteRecord(f"p{prompt}", f"late{rater}", "new", "old", "B") for rater in range(9) for prompt in range(40)]
    verdict = pair_verdict([*first, *later], "new", "old")
    assert verdict.outcome == "undecided"
    assert verdict.share.low is not None
    assert verdict.share.high is not None
    assert verdict.share.low <= verdict.share.value <= verdict.share.high
