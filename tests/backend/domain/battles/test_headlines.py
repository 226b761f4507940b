"""Headlines of boards: who leads, whether it is enough, what is missing, and no number that no one can read."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from backend.domain.battles.headlines import board_headline, pair_headline
from backend.domain.battles.rating_table import RatingTable
from backend.domain.battles.ratings import fit_ratings
from backend.domain.battles.verdicts import PairVerdict, pair_verdict
from backend.domain.battles.votes import VoteRecord
from backend.domain.wording import about, format_evidence


def votes(
    share: float, *, num: int, raters: int, seed: int = 1, a: str = "Village chat", b: str = "Base"
) -> list[VoteRecord]:
    """Votes on a prompt each, raters in turn; `share` of them for `a`, sides shuffled."""
    rng = np.random.default_rng(seed)
    wins = rng.permutation(np.arange(num) < round(share * num))
    rows = []
    for number, wins_a in enumerate(wins):
        sides = (a, b) if rng.random() < 0.5 else (b, a)
        rows.append(
            VoteRecord(f"p{number}", f"r{number % raters}", *sides, "A" if (sides[0] == a) == bool(wins_a) else "B")
        )
    return rows


def judged(cast: list[VoteRecord], a: str = "Village chat", b: str = "Base") -> tuple[PairVerdict, RatingTable]:
    return pair_verdict(cast, a, b), fit_ratings(cast)


def test_a_probable_lead_says_what_is_missing_at_the_observed_gap() -> None:
    verdict, table = judged(votes(0.7, num=40, raters=8))
    headline = pair_headline(verdict, table)
    assert headline.tone == "leaning"
    gap = round(table.rating("Village chat").rating) - round(table.rating("Base").rating)
    assert re.fullmatch(
        r"Village chat is probably better than Base, 70 % of 40 votes\. Not enough to promote: about [\d,]+ more votes"
        r" .*for a gap of \d+ rating points, a cautious reading of these votes"
        rf" \(the board's ratings are {gap} apart\)\.",
        headline.sentence,
    )


def test_a_closed_campaign_promises_no_more_votes() -> None:
    """Nobody can vote in an imported one: "about 1,200 more votes by 12 new raters"."""
    verdict, table = judged(votes(0.7, num=40, raters=8))
    sentence = pair_headline(verdict, table, is_closed=True).sentence
    assert sentence.endswith("70 % of 40 votes. Not enough to promote, and the campaign is closed.")


def test_a_gap_that_is_wider_than_the_boards_is_not_called_cautious() -> None:
    """207 points with 112 on the board need fewer votes, not more."""
    verdict, table = judged(votes(0.7, num=40, raters=8))
    first, second = table.ratings
    table = replace(table, ratings=(replace(first, rating=1030.0), replace(second, rating=969.0)))
    sentence = pair_headline(verdict, table).sentence
    assert (
        "as the votes on this pair suggest (the board's ratings are 61 apart, and a smaller gap needs more)" in sentence
    )
    assert "cautious" not in sentence


def test_the_distance_of_ratings_is_that_of_the_ratings_beside_it() -> None:
    verdict, table = judged(votes(0.7, num=40, raters=8))
    first, second = table.ratings
    table = replace(table, ratings=(replace(first, rating=1030.6), replace(second, rating=969.4)))
    assert "(the board's ratings are 62 apart, " in pair_headline(verdict, table).sentence, "1031 and 969 stand beside"


def test_a_decided_lead_is_enough_and_names_whom_it_speaks_for() -> None:
    verdict, table = judged(votes(0.85, num=400, raters=40))
    assert verdict.outcome == "better"
    headline = pair_headline(verdict, table)
    assert headline.sentence == "Village chat is better than Base, 85 % of 400 votes. Enough to promote."
    assert headline.notes[0] == "Speaks for raters like the 40 who voted, and for prompts like these 400."
    assert headline.tone == "decided"


def test_what_one_rater_prefers_is_said_of_that_rater() -> None:
    verdict, table = judged(votes(0.95, num=60, raters=1))
    headline = pair_headline(verdict, table)
    assert headline.sentence.startswith(
        "The one rater who voted prefers Village chat to Base, 95 % of 60 votes; others may not."
    )
    assert "Speaks for the one rater who voted and no others." in headline.notes


def test_ranks_that_are_apart_beside_an_open_verdict_are_explained() -> None:
    verdict, table = judged(votes(0.7, num=100, raters=2))
    assert verdict.outcome == "undecided"
    assert [(row.rank_low, row.rank_high) for row in table.ratings] == [(1, 1), (2, 2)]
    assert any("Their ranks are apart all the same" in note for note in pair_headline(verdict, table).notes)


def test_even_votes_and_close_ones_end_in_words_not_in_millions() -> None:
    verdict, table = judged(votes(0.5, num=20, raters=4))
    assert "are even after 20 votes. Not enough to promote:" in pair_headline(verdict, table).sentence
    verdict, table = judged(votes(0.52, num=100, raters=4))
    sentence = pair_headline(verdict, table).sentence
    assert "which may be chance" in sentence
    assert "for a gap of 35 rating points" in sentence


@pytest.mark.parametrize("share", [0.5, 0.51, 0.6, 0.8, 0.99, 1.0])
@pytest.mark.parametrize(("num", "raters"), [(4, 1), (40, 3), (1000, 2), (3000, 300)])
def test_no_sentence_has_a_power_of_ten_or_a_number_above_the_votes(share: float, num: int, raters: int) -> None:
    verdict, table = judged(votes(share, num=num, raters=raters))
    headline = pair_headline(verdict, table)
    for text in (headline.sentence, verdict.sentence, *headline.notes):
        assert not re.search(r"\de[+-]?\d", text)
        assert all(float(number.replace(",", "")) < 1_000_000 for number in re.findall(r"\d[\d,]*", text))


def test_a_leader_of_several_counts_the_decided_pairs() -> None:
    cast = [*votes(0.9, num=300, raters=30), *votes(0.9, num=300, raters=30, a="Village chat", b="Third", seed=2)]
    cast += votes(0.5, num=40, raters=5, a="Base", b="Third", seed=3)
    table = fit_ratings(cast)
    order = table.contestants
    pairs = [(order[0], order[1]), (order[1], order[2]), (order[0], order[2])]
    verdicts = [pair_verdict(cast, first, second, num_pairs=3) for first, second in pairs]
    headline = board_headline(verdicts, table)
    assert headline is not None
    assert headline.sentence == "Village chat is better than all 2 others. Enough to promote."
    assert headline.notes[0] == "2 of 3 pairs are decided."
    assert board_headline((), None) is None


def test_a_leader_that_never_met_the_second_leads_the_ratings_alone() -> None:
    cast = [*votes(0.95, num=200, raters=10, b="Third"), *votes(0.6, num=60, raters=10, a="Base", b="Third", seed=2)]
    table = fit_ratings(cast)
    headline = board_headline([pair_verdict(cast, "Village chat", "Base", num_pairs=3)], table)
    assert headline is not None
    assert headline.sentence.startswith(
        "Village chat leads the ratings of 3 contestants, ahead of Base. Not enough to promote"
    )
    few = [*votes(0.7, num=8, raters=1, b="Third"), *votes(0.6, num=8, raters=1, a="Base", b="Third", seed=2)]
    headline = board_headline([pair_verdict(few, "Village chat", "Base", num_pairs=3)], fit_ratings(few))
    assert headline is not None
    assert "not clearly ahead of Base" in headline.sentence


def test_the_headline_of_many_contestants_says_whose_prompts_it_counts() -> None:
    cast = [*votes(0.6, num=8, raters=2), *votes(0.6, num=30, raters=2, b="Third", seed=2)]
    headline = board_headline([pair_verdict(cast, "Village chat", "Base", num_pairs=3)], fit_ratings(cast))
    assert headline is not None
    assert "So far 2 raters on 8 prompts with this pair." in headline.notes, "the board has 30"


@pytest.mark.parametrize(
    ("number", "words"),
    [(7, "7"), (99, "99"), (101, "110"), (2311, "2,400"), (197_689, "200,000"), (4_000_001, "4.1 million")],
)
def test_estimated_counts_have_two_figures(number: int, words: str) -> None:
    assert about(number) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [(4.27e8, "over a million"), (31.4, "31"), (0.37, "0.37"), (1e-5, "under 0.01"), (2311, "2,300")],
)
def test_evidence_has_no_power_of_ten(value: float, words: str) -> None:
    assert format_evidence(value) == words


def test_the_headline_counts_the_votes_that_people_cast() -> None:
    cast = votes(0.7, num=40, raters=8)
    equal = [VoteRecord(f"e{number}", "r0", "Village chat", "Base", "TIE", identical=True) for number in range(20)]
    headline = pair_headline(*judged([*cast, *equal]))
    assert "70 % of 40 votes" in headline.sentence
    assert headline.notes[:2] == (
        "So far 8 raters on 40 prompts.",
        "20 more battles had identical answers and count as ties.",
    )
    few = pair_headline(*judged([*votes(1.0, num=6, raters=6), *equal]))
    assert "probably" not in few.sentence


def test_identical_answers_alone_make_no_headline() -> None:
    cast = [VoteRecord(f"p{number}", "", "Village chat", "Base", "TIE", identical=True) for number in range(3)]
    verdict, table = judged(cast)
    assert board_headline([verdict], table) is None
    assert board_headline([judged(votes(0.7, num=40, raters=8))[0]], table) is not None
