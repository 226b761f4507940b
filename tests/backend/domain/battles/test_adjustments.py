"""Control of length and style recovers planted effects; reweighting recovers uniform pairs; both say what they did."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from backend.domain.battles.rating_table import ELO_PER_UNIT, RatingOptions
from backend.domain.battles.ratings import fit_ratings
from backend.domain.battles.votes import AnswerFeatures, VoteRecord, measure_answer
from backend.errors import InvalidInput

STRENGTHS = {"short": 0.4, "plain": 0.0, "long": -0.4}
TYPICAL = {"short": 200.0, "plain": 400.0, "long": 900.0}


def votes_that_like_length(effect: float, *, count: int = 4000) -> list[VoteRecord]:
    """Votes whose log-odds rise by `effect` per unit of the relative difference in length."""
    rng = np.random.default_rng(7)
    names = list(STRENGTHS)
    votes = []
    for number in range(count):
        a, b = rng.choice(names, size=2, replace=False)
        form_a, form_b = (
            AnswerFeatures(TYPICAL[name] * math.exp(rng.normal(0, 0.5)), bold=float(rng.poisson(2))) for name in (a, b)
        )
        z = (form_a.length - form_b.length) / (form_a.length + form_b.length)
        chance = 1 / (1 + math.exp(STRENGTHS[b] - STRENGTHS[a] - effect * z))
        winner = "A" if rng.random() < chance else "B"
        votes.append(VoteRecord(f"p{number % 200}", f"r{number % 25}", a, b, winner, form_a=form_a, form_b=form_b))
    return votes


def test_control_of_length_recovers_the_effect_and_the_strengths() -> None:
    votes = votes_that_like_length(1.5)
    table = fit_ratings(votes, control=("length",))
    effect = table.controls[0]
    assert effect.feature == "length"
    per_unit = effect.effect.value / effect.deviation / ELO_PER_UNIT
    assert per_unit == pytest.approx(1.5, abs=0.2)  # a prior that is too strong gives a tenth of it
    assert effect.effect.low is not None
    assert effect.effect.low > 0
    assert table.contestants == ("short", "plain", "long")
    assert table.pair("short", "long").difference == pytest.approx(0.8 * ELO_PER_UNIT, abs=35)
    plain = fit_ratings(votes)
    assert plain.contestants[0] == "long"  # length alone won
    assert {row.contestant: row.uncontrolled for row in table.ratings} == pytest.approx(
        {row.contestant: row.rating for row in plain.ratings}
    )
    assert plain.ratings[0].uncontrolled is None
    assert "controlled for length" in table.method


def test_the_effect_of_length_is_nothing_where_it_has_none() -> None:
    table = fit_ratings(votes_that_like_length(0.0), control=("length", "style"))
    effects = {row.feature: row.effect for row in table.controls}
    assert set(effects) == {"length", "bold"}
    for effect in effects.values():
        assert effect.low is not None
        assert effect.high is not None
        assert effect.low < 0 < effect.high
    assert sum("never differ" in note for note in table.notes) == 2


def test_control_is_the_same_with_sides_swapped() -> None:
    votes = votes_that_like_length(1.0, count=600)
    swapped = [
        replace(
            vote, a=vote.b, b=vote.a, form_a=vote.form_b, form_b=vote.form_a, winner={"A": "B", "B": "A"}[vote.winner]
        )
        for vote in votes
    ]
    first, second = (fit_ratings(rows, control=("length",), num_draws=50) for rows in (votes, swapped))
    assert [row.rating for row in second.ratings] == pytest.approx([row.rating for row in first.ratings])
    assert second.controls[0].effect.value == pytest.approx(first.controls[0].effect.value)
    assert second.position_bias is not None
    assert first.position_bias is not None
    assert second.position_bias.value == pytest.approx(-first.position_bias.value)


def test_control_without_lengths_is_refused_and_missing_lengths_are_counted() -> None:
    votes = votes_that_like_length(1.0, count=60)
    with pytest.raises(InvalidInput, match="No vote has the length of both answers"):
        fit_ratings([replace(vote, form_a=None, form_b=None) for vote in votes], control=("length",))
    some = fit_ratings([replace(votes[0], form_a=None), *votes[1:]], control=("length",))
    assert any("1 vote without length" in note for note in some.notes)


def unequal_votes() -> list[VoteRecord]:
    """A circle that no strengths fit (x beats y, y beats z, z beats x), with x against y drawn eight times as often."""
    shares = {("x", "y"): (800, 0.7, 0.8), ("y", "z"): (100, 0.7, 0.1), ("z", "x"): (100, 0.7, 0.1)}
    votes = []
    for (a, b), (count, share, probability) in shares.items():
        votes += [
            VoteRecord(f"p{n % 50}", f"r{n % 9}", a, b, "A" if n < share * count else "B", probability=probability)
            for n in range(count)
        ]
    return votes


@pytest.mark.parametrize("logged", [True, False], ids=["logged probability", "votes of the pair"])
def test_reweighting_gives_the_ratings_of_uniform_pairs(logged: bool) -> None:
    votes = unequal_votes() if logged else [replace(vote, probability=None) for vote in unequal_votes()]
    plain, weighted = fit_ratings(votes), fit_ratings(votes, reweight=True)
    assert plain.ratings[0].rating - plain.ratings[-1].rating > 50
    assert [row.rating for row in weighted.ratings] == pytest.approx([1000.0] * 3)
    assert any(("logged probability" if logged else "votes on its pair") in note for note in weighted.notes)


def test_each_category_is_rated_by_its_own_votes() -> None:
    votes = [
        *(VoteRecord(f"m{n}", f"r{n % 4}", "x", "y", "B" if n % 4 == 0 else "A", category="maths") for n in range(80)),
        *(VoteRecord(f"c{n}", f"r{n % 4}", "x", "y", "A" if n % 4 == 0 else "B", category="code") for n in range(80)),
        VoteRecord("p", "r0", "x", "y", "A"),
    ]
    maths, code = (fit_ratings(votes, category=name) for name in ("maths", "code"))
    assert (maths.contestants[0], maths.num_votes) == ("x", 80)
    assert (code.contestants[0], code.num_votes) == ("y", 80)
    with pytest.raises(InvalidInput, match="No vote has the category 'poems'"):
        fit_ratings(votes, category="poems")


def test_an_invalid_option_names_the_field_and_what_it_may_be() -> None:
    with pytest.raises(InvalidInput, match=r"method.*'bradley_terry', 'davidson' or 'rao_kupper'"):
        RatingOptions.of(method="elo")
    with pytest.raises(InvalidInput, match="level"):
        RatingOptions.of(level=1.5)
    assert RatingOptions.of(control=["style", "length", "style"]).control == ("length", "style")


def test_an_answer_is_measured_outside_its_code_blocks() -> None:
    text = "# Title\n\n- one\n* two\n1. three\n\n**bold** and __bold__\n\n```\n# no header\n- no item\n```\n## Second\n"
    assert measure_answer(text) == AnswerFeatures(len(text.strip()), headers=2, lists=3, bold=2)
    assert measure_answer("  ") == AnswerFeatures(0)
