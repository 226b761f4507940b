"""First place hangs on the votes that are named: removing them changes it, and no smaller set of planted votes does."""

from __future__ import annotations

import numpy as np
import pytest

from backend.domain.battles.influence import first_place_fragility, without_each_rater
from backend.domain.battles.ratings import fit_ratings
from backend.domain.battles.votes import VoteRecord


def close_race(seed: int = 3, *, lead: float = 0.55) -> list[VoteRecord]:
    rng = np.random.default_rng(seed)
    votes = []
    for number in range(300):
        a, b = rng.choice(["x", "y", "z"], size=2, replace=False)
        chance = {("x", "y"): lead, ("y", "x"): 1 - lead, ("x", "z"): 0.75, ("y", "z"): 0.75}.get((a, b), 0.25)
        votes.append(
            VoteRecord(
                f"p{number % 40}",
                f"r{number % 9}",
                a,
                b,
                "TIE" if rng.random() < 0.1 else "A" if rng.random() < chance else "B",
            )
        )
    return votes


@pytest.mark.parametrize("method", ["bradley_terry", "davidson", "rao_kupper"])
def test_removing_the_named_votes_changes_first_place_and_one_vote_less_does_not(method: str) -> None:
    votes = close_race()
    removal = first_place_fragility(votes, method=method).votes  # type: ignore[arg-type]
    assert removal is not None
    assert 0 < removal.num_votes < 40
    assert fit_ratings(votes, method=method).contestants[0] == removal.first  # type: ignore[arg-type]
    rest = [vote for number, vote in enumerate(votes) if number not in removal.members]
    assert fit_ratings(rest, method=method).contestants[0] == removal.new_first != removal.first  # type: ignore[arg-type]
    fewer = [vote for number, vote in enumerate(votes) if number not in removal.members[1:]]
    assert fit_ratings(fewer, method=method).contestants[0] == removal.first  # type: ignore[arg-type]


def test_a_rater_who_makes_the_leader_is_named() -> None:
    honest = [VoteRecord(f"p{n}", f"r{n % 8}", "x", "y", "A" if n % 20 < 9 else "B") for n in range(160)]
    rigged = [VoteRecord(f"p{n}", "stuffer", "x", "y", "A") for n in range(40)]
    fragility = first_place_fragility(honest + rigged)
    assert fragility.raters is not None
    assert fragility.raters.members == ("stuffer",)
    assert (fragility.raters.first, fragility.raters.new_first) == ("x", "y")
    rows = without_each_rater(honest + rigged)
    assert rows[0].rater == "stuffer"
    assert (rows[0].first, rows[0].ranks_changed, rows[0].num_votes) == (("y",), 2, 40)
    assert {row.first for row in rows[1:]} == {("x",)}
    before, after = (fit_ratings(votes).rating(rows[0].contestant).rating for votes in (honest + rigged, honest))
    assert rows[0].largest_change == pytest.approx(after - before, abs=1e-6)


def test_a_clear_first_place_hangs_on_no_small_set() -> None:
    votes = [VoteRecord(f"p{n}", f"r{n % 5}", "x", "y", "B" if n % 10 == 0 else "A") for n in range(200)]
    assert first_place_fragility(votes).votes is None
    assert first_place_fragility(votes).raters is None


def test_first_place_that_two_share_hangs_on_any_vote() -> None:
    votes = [
        VoteRecord(f"p{n}", f"r{n % 2}", "x", "y", "AAB"[n // 2 % 3] if n % 2 else "BBA"[n // 2 % 3]) for n in range(12)
    ]
    fragility = first_place_fragility(votes)
    assert (fragility.leaders, fragility.votes, fragility.raters) == (("x", "y"), None, None)
    assert {row.rater: row.first for row in without_each_rater(votes)} == {"r0": ("x",), "r1": ("y",)}


def test_sharing_the_lead_is_no_loss_of_it() -> None:
    """Without one vote `z` and `a` are equal; `a`, the first by name, leads without two."""
    votes = [VoteRecord(f"p{n}", f"r{n}", "z", "a", "A" if n < 4 else "B") for n in range(7)]
    removal = first_place_fragility(votes).votes
    assert removal is not None
    assert (removal.num_votes, removal.first, removal.new_first) == (2, "z", "a")


def test_without_a_rater_who_alone_met_a_contestant_the_rest_is_compared() -> None:
    votes = [*close_race(), *(VoteRecord(f"q{n}", "loner", "w", "x", "AB"[n % 2]) for n in range(6))]
    rows = {row.rater: row for row in without_each_rater(votes)}
    assert rows["loner"].contestant != "w"
    assert len(rows) == 10


def test_one_rater_has_no_table_of_the_rest() -> None:
    assert without_each_rater([VoteRecord("p", "r", "x", "y", "A"), VoteRecord("q", "r", "x", "y", "B")]) == ()
