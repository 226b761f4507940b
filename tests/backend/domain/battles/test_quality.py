"""Raters: honest campaigns without flags, and each way of cheating found in simulation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from backend.domain.battles.quality import NO_GOLD, RatedColumns, RaterQuality, _Comparison, rate_raters
from backend.domain.battles.votes import LABELS, VoteRecord, encode_votes

CONTESTANTS = ("x", "y", "z")
STRENGTH = {"x": 0.5, "y": 0.0, "z": -0.5}


@dataclass(frozen=True)
class RatedVote:
    """A vote with what the ballot recorded; `gold` is the label that a gold battle expects."""

    vote: VoteRecord
    seconds: float | None = None
    words: int | None = None
    gold: str | None = None


def rater_quality(votes: Iterable[RatedVote]) -> list[RaterQuality]:
    """Measure each rater of votes in the order cast."""
    cast = [vote for vote in votes if not vote.vote.identical]
    labels = {label.value: code for code, label in enumerate(LABELS)}
    return rate_raters(
        RatedColumns(
            encode_votes([vote.vote for vote in cast]),
            seconds=np.array([np.nan if vote.seconds is None else vote.seconds for vote in cast]),
            words=np.array([np.nan if vote.words is None else vote.words for vote in cast]),
            gold=np.array([NO_GOLD if vote.gold is None else labels[vote.gold] for vote in cast]),
            is_repeat=np.zeros(len(cast), dtype=bool),
        )
    )


def campaign(
    rng: np.random.Generator, *, raters: int = 6, prompts: int = 30, ties: float = 0.2, taste: float = 0.0
) -> list[RatedVote]:
    """Votes of honest raters, each on every prompt, one pair of three a prompt; prompts favour a contestant more or
    less, and so does a rater's taste, a normal log-odds for each contestant.
    """
    votes = []
    tastes = [dict(zip(CONTESTANTS, taste * rng.normal(size=3), strict=True)) for _ in range(raters)] if taste else []
    for prompt in range(prompts):
        one, other = rng.choice(CONTESTANTS, 2, replace=False)
        gap = STRENGTH[one] - STRENGTH[other] + 0.8 * rng.normal()
        for rater in range(raters):
            share = 1 / (1 + np.exp(-(gap + (tastes[rater][one] - tastes[rater][other] if taste else 0.0))))
            preferred = one if rng.random() < share else other
            votes.append(cast(rng, f"p{prompt}", f"r{rater}", (one, other), None if rng.random() < ties else preferred))
    return votes


def cast(rng: np.random.Generator, prompt: str, rater: str, pair: tuple[str, str], preferred: str | None) -> RatedVote:
    """One vote with shuffled sides, at the pace of a person who reads 200 words."""
    a, b = pair if rng.random() < 0.5 else pair[::-1]
    winner = "TIE" if preferred is None else "A" if preferred == a else "B"
    return RatedVote(VoteRecord(prompt, rater, a, b, winner), seconds=float(30 * np.exp(0.5 * rng.normal())), words=200)


def flags(rows: list[RaterQuality], rater: str) -> set[str]:
    return {flag.kind for row in rows if row.rater == rater for flag in row.flags}


def others_flagged(rows: list[RaterQuality], rater: str) -> list[tuple[str, str]]:
    return [(row.rater, flag.kind) for row in rows if row.rater != rater for flag in row.flags]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def pretend(votes: list[RatedVote], rater: str, change: object) -> list[RatedVote]:
    return [change(vote) if vote.vote.rater == rater else vote for vote in votes]  # type: ignore[operator]


def test_many_odd_raters_cost_a_test_each_and_not_one_for_each_of_the_others(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of a campaign in which half of the raters voted at random took forty seconds of processor time."""
    votes = campaign(rng, raters=24, prompts=60, ties=0.0)
    odd = [f"r{number}" for number in range(12, 24)]
    votes = [
        replace(vote, vote=replace(vote.vote, winner=str(rng.choice(["A", "B", "TIE"]))))
        if vote.vote.rater in odd
        else vote
        for vote in votes
    ]
    simulated: list[object] = []
    whole = _Comparison._simulated

    def count(self: _Comparison, *given: object) -> tuple[float, float]:
        simulated.append(self)
        return whole(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(_Comparison, "_simulated", count)
    rows = rater_quality(votes)
    assert {row.rater for row in rows if "outlier" in {flag.kind for flag in row.flags}} == set(odd)
    assert len(simulated) <= 2 * 24


def test_honest_raters_are_not_flagged() -> None:
    flagged = 0
    for seed in range(25):
        flagged += any(row.flags for row in rater_quality(campaign(np.random.default_rng(seed))))
    assert flagged <= 1


@pytest.mark.parametrize(("raters", "prompts", "taste"), [(10, 100, 0.8), (10, 100, 0.5), (4, 200, 0.8)])
def test_honest_raters_with_tastes_are_not_flagged(raters: int, prompts: int, taste: float) -> None:
    flagged = [
        {
            flag.kind
            for row in rater_quality(campaign(np.random.default_rng(seed), raters=raters, prompts=prompts, taste=taste))
            for flag in row.flags
        }
        for seed in range(15)
    ]
    assert sum(map(bool, flagged)) <= 1, flagged


def test_one_who_pushes_a_contestant_is_found_among_raters_with_tastes(rng: np.random.Generator) -> None:
    def push(vote: RatedVote) -> RatedVote:
        sides = {vote.vote.a: "A", vote.vote.b: "B"}
        return replace(vote, vote=replace(vote.vote, winner=sides["z"])) if "z" in sides else vote

    rows = rater_quality(pretend(campaign(rng, raters=12, prompts=150, taste=0.2), "r1", push))
    assert "favourite" in flags(rows, "r1")
    assert others_flagged(rows, "r1") == []


def test_a_copy_is_found_among_raters_with_tastes(rng: np.random.Generator) -> None:
    votes = campaign(rng, raters=8, prompts=100, taste=0.8)
    given = {vote.vote.prompt: vote for vote in votes if vote.vote.rater == "r1"}
    rows = rater_quality(
        pretend(votes, "r2", lambda vote: replace(vote, vote=replace(given[vote.vote.prompt].vote, rater="r2")))
    )
    assert "copy" in flags(rows, "r2")
    assert all(row.rater in ("r1", "r2") for row in rows if row.flags)


def test_a_script_that_always_votes_for_one_side_is_flagged(rng: np.random.Generator) -> None:
    votes = pretend(campaign(rng), "r2", lambda vote: replace(vote, vote=replace(vote.vote, winner="A")))
    rows = rater_quality(votes)
    assert {"side", "streak"} <= flags(rows, "r2")
    assert others_flagged(rows, "r2") == []
    row = next(row for row in rows if row.rater == "r2")
    assert row.left is not None
    assert row.left.value == 1.0
    assert "Chose side A in 30 of 30 decisive votes." in [flag.reason for flag in row.flags]


def test_a_rater_who_pushes_one_contestant_is_flagged_and_the_honest_ones_are_not(rng: np.random.Generator) -> None:
    def push(vote: RatedVote) -> RatedVote:
        sides = {vote.vote.a: "A", vote.vote.b: "B"}
        return replace(vote, vote=replace(vote.vote, winner=sides["z"])) if "z" in sides else vote

    rows = rater_quality(pretend(campaign(rng, prompts=90), "r1", push))
    assert "favourite" in flags(rows, "r1")
    assert "side" not in flags(rows, "r1")
    assert others_flagged(rows, "r1") == []


def test_a_rater_who_turns_every_preference_round_is_an_outlier(rng: np.random.Generator) -> None:
    strong = {"x": 0, "y": 1, "z": -1}
    votes = []
    for prompt in range(60):
        one, other = rng.choice(CONTESTANTS, 2, replace=False)
        better, worse = (one, other) if strong[one] > strong[other] else (other, one)
        votes += [
            cast(rng, f"p{prompt}", f"r{rater}", (one, other), better if rng.random() < 0.85 else worse)
            for rater in range(5)
        ]
        votes.append(cast(rng, f"p{prompt}", "turned", (one, other), worse))
    rows = rater_quality(votes)
    row = next(row for row in rows if row.rater == "turned")
    assert "outlier" in flags(rows, "turned")
    assert others_flagged(rows, "turned") == []
    assert row.kappa is not None
    assert row.kappa < 0


def test_one_tie_on_a_pair_that_others_always_decided_is_no_outlier() -> None:
    rng = np.random.default_rng(0)
    votes = [cast(rng, f"p{prompt}", f"r{rater}", ("x", "y"), "x") for prompt in range(10) for rater in range(4)]
    rows = rater_quality([*votes, cast(rng, "p0", "tied", ("x", "y"), None)])
    row = next(row for row in rows if row.rater == "tied")
    assert row.flags == ()
    assert row.outlier is not None
    assert row.outlier > 0.001


def test_votes_faster_than_reading_are_flagged(rng: np.random.Generator) -> None:
    votes = pretend(campaign(rng), "r0", lambda vote: replace(vote, seconds=1.0 + rng.random() * 3))
    rows = rater_quality(votes)
    assert "pace" in flags(rows, "r0")
    assert others_flagged(rows, "r0") == []
    row = next(row for row in rows if row.rater == "r0")
    assert row.seconds is not None
    assert row.seconds < 4


def test_a_program_that_votes_by_the_clock_is_flagged(rng: np.random.Generator) -> None:
    votes = pretend(campaign(rng), "r0", lambda vote: replace(vote, seconds=20.0 + rng.random()))
    assert flags(rater_quality(votes), "r0") == {"regular"}


def test_replayed_votes_are_flagged_and_swapped_repeats_measure_consistency(rng: np.random.Generator) -> None:
    votes = campaign(rng)
    own = [vote for vote in votes if vote.vote.rater == "r3"]
    swap = {"A": "B", "B": "A", "TIE": "TIE"}
    swapped = [
        replace(vote, vote=replace(vote.vote, a=vote.vote.b, b=vote.vote.a, winner=swap[vote.vote.winner]))
        for vote in own[:12]
    ]
    consistent = rater_quality([*votes, *swapped])
    row = next(row for row in consistent if row.rater == "r3")
    assert row.consistency is not None
    assert (row.consistency.value, row.consistency.n) == (1.0, 12)
    assert row.flags == ()
    assert flags(rater_quality([*votes, *own[:5]]), "r3") == {"replay"}


def test_a_rater_without_a_view_contradicts_itself_on_repeats(rng: np.random.Generator) -> None:
    votes = campaign(rng)
    own = [vote for vote in votes if vote.vote.rater == "r3"]
    swapped = [
        replace(vote, vote=replace(vote.vote, a=vote.vote.b, b=vote.vote.a))
        for vote in own
        if vote.vote.winner != "TIE"
    ]
    rows = rater_quality([*votes, *swapped])
    assert "consistency" in flags(rows, "r3")


def test_two_accounts_that_give_the_same_labels_are_flagged(rng: np.random.Generator) -> None:
    votes = campaign(rng, prompts=60)
    copies = [replace(vote, vote=replace(vote.vote, rater="double")) for vote in votes if vote.vote.rater == "r0"]
    rows = rater_quality([*votes, *copies])
    assert flags(rows, "double") == {"copy"}
    assert flags(rows, "r0") == {"copy"}
    (flag,) = next(row for row in rows if row.rater == "double").flags
    assert (flag.reason, flag.partner) == ("Gave the same label as another rater on 60 of 60 shared battles.", "r0")


def test_gold_battles_find_a_rater_who_guesses(rng: np.random.Generator) -> None:
    votes = campaign(rng)
    for rater in ("r0", "r1"):
        for place in range(20):
            vote = cast(rng, f"gold{place}", rater, ("x", "z"), "x")
            right = vote.vote.winner
            guess = right if rater == "r0" or place % 3 == 0 else {"A": "B", "B": "A"}[right]
            votes.append(replace(vote, vote=replace(vote.vote, winner=guess), gold=right))
    rows = {row.rater: row for row in rater_quality(votes)}
    assert rows["r0"].gold is not None
    assert rows["r1"].gold is not None
    assert (rows["r0"].gold.value, rows["r1"].gold.value) == (1.0, 0.35)
    assert rows["r0"].flags == ()
    assert [flag.kind for flag in rows["r1"].flags] == ["gold"]
    assert rows["r2"].gold is None


@pytest.mark.parametrize(
    ("right", "battles", "chance"),
    [
        pytest.param(0, 2, 0.01**2, id="two of two missed: flagged"),
        pytest.param(2, 5, 10 * 0.01**3 * 0.99**2 + 5 * 0.01**4 * 0.99 + 0.01**5, id="three of five missed: flagged"),
        pytest.param(0, 1, None, id="one of one missed: 1 in 100 do"),
        pytest.param(16, 20, None, id="80 % pass, however unlikely of a rater who misses 1 in 100"),
    ],
)
def test_missed_gold_battles_are_flagged_from_the_second_on(
    rng: np.random.Generator, right: int, battles: int, chance: float | None
) -> None:
    """A rater who failed both gold battles of a campaign had no flag: of raters who pass 80 %, 4 in 100 do."""
    votes = campaign(rng, raters=3)
    for place in range(battles):
        vote = cast(rng, f"gold{place}", "r1", ("x", "z"), "x")
        expected = vote.vote.winner
        given = expected if place < right else {"A": "B", "B": "A"}[expected]
        votes.append(replace(vote, vote=replace(vote.vote, winner=given), gold=expected))
    row = next(row for row in rater_quality(votes) if row.rater == "r1")
    assert row.gold is not None
    assert (round(row.gold.value * row.gold.n), row.gold.n) == (right, battles)
    chances = [flag.chance for flag in row.flags if flag.kind == "gold"]
    assert chances == ([] if chance is None else [pytest.approx(chance)])


def test_twelve_of_twelve_votes_for_a_side_and_half_of_the_gold_missed_are_flagged_in_a_small_campaign(
    rng: np.random.Generator,
) -> None:
    """One of three voted twelve times for side A and missed two of four gold battles: no flag until 20 votes."""
    votes = pretend(
        campaign(rng, raters=3, prompts=8), "r1", lambda one: replace(one, vote=replace(one.vote, winner="A"))
    )
    for rater in ("r0", "r1", "r2"):
        for place in range(4):
            a, b = ("x", "z") if place % 2 else ("z", "x")
            expected = "A" if a == "x" else "B"
            vote = VoteRecord(f"gold{place}", rater, a, b, "A" if rater == "r1" else expected)
            votes.append(RatedVote(vote, seconds=float(30 * np.exp(0.5 * rng.normal())), words=200, gold=expected))
    rows = rater_quality(votes)
    row = next(row for row in rows if row.rater == "r1")
    assert row.left is not None
    assert (row.left.value, row.left.n) == (1.0, 12)
    assert {"side", "gold"} <= flags(rows, "r1")
    assert others_flagged(rows, "r1") == []


def test_without_votes_there_are_no_raters() -> None:
    assert rater_quality([]) == []
