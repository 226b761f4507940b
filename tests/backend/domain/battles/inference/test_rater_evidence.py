"""Evidence over raters: the likelihood ratio that it states, expectations of at most one, and errors with raters who
lean.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from backend.domain.battles.inference.evidence import (
    CENTRES,
    LEANINGS,
    SPREADS,
    STEP,
    USUAL,
    WIDE,
    WIDE_SHARE,
    FloatArray,
    IntArray,
    log_rater_e_value,
    rater_evidence,
)


def votes_of(won: list[int], lost: list[int]) -> tuple[FloatArray, IntArray]:
    """Points and raters of this many wins and losses of each rater."""
    points = np.concatenate([[1.0] * wins + [0.0] * losses for wins, losses in zip(won, lost, strict=True)])
    return points, np.repeat(np.arange(len(won)), np.add(won, lost))


def rater_e_value(points: FloatArray, rater: IntArray) -> float:
    return math.exp(log_rater_e_value(rater_evidence(points, rater)))


def chance(wins: int, losses: int, leaning: FloatArray) -> FloatArray:
    """Chance of a rater's votes in one order, given the leaning."""
    share = 1 / (1 + np.exp(-leaning))
    return np.asarray(share**wins * (1 - share) ** losses)


def test_the_e_value_is_favoured_chance_over_the_largest_chance_of_a_symmetric_unimodal_spread() -> None:
    won, lost = [9, 5, 7, 6], [2, 4, 1, 6]
    favoured = 0.0
    usual, wide = (CENTRES * np.exp(-((CENTRES / scale) ** 2) / 2) for scale in (USUAL, WIDE))
    shares = ((1 - WIDE_SHARE) * usual / usual.sum() + WIDE_SHARE * wide / wide.sum()) / 2
    for (centre, share), side, (spread, part) in itertools.product(zip(CENTRES, shares, strict=True), (1, -1), SPREADS):
        weight = stats.norm.pdf(LEANINGS, side * centre, max(spread, STEP / 2))
        weight /= weight.sum()
        favoured += (
            share * part * math.prod(float(weight @ chance(*votes, LEANINGS)) for votes in zip(won, lost, strict=True))
        )
    widths = np.geomspace(0.01, 8, 40)
    grid = np.linspace(-1, 1, 2001)
    table = np.array(
        [[chance(*votes, width * grid).mean() for width in widths] for votes in zip(won, lost, strict=True)]
    )

    def minus_log(raw: FloatArray) -> float:
        weights = np.exp(raw - raw.max())
        return -float(np.log(table @ (weights / weights.sum())).sum())

    largest = max(
        -optimize.minimize(minus_log, start).fun
        for start in (np.zeros(40), np.linspace(3, -3, 40), np.linspace(-3, 3, 40))
    )
    assert log_rater_e_value(rater_evidence(*votes_of(won, lost))) == pytest.approx(
        math.log(favoured) - largest, abs=0.03
    )


def test_the_e_value_of_many_raters_is_near_that_of_the_likeliest_spread() -> None:
    draw = np.random.default_rng(3)
    shares = 1 / (1 + np.exp(-draw.normal(0.1, 0.5, 150)))
    won = draw.binomial(12, shares)
    evidence = rater_evidence(*votes_of(won.tolist(), (12 - won).tolist()))
    weights = np.full(evidence.even.shape[1], 1 / evidence.even.shape[1])
    for _ in range(20_000):  # expectation maximisation, slow and simple
        weights *= (evidence.counts / (evidence.even @ weights)) @ evidence.even / evidence.counts.sum()
    exact = evidence.log_favoured - float(evidence.counts @ np.log(evidence.even @ weights))
    assert exact - 0.02 <= log_rater_e_value(evidence) <= exact


@pytest.mark.parametrize("leaning", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("spread", ["normal", "uniform", "laplace"])
def test_the_expectation_under_any_symmetric_unimodal_spread_is_at_most_one(leaning: float, spread: str) -> None:
    laws = {
        "normal": stats.norm(0, 1),
        "uniform": stats.uniform(-(3**0.5), 2 * 3**0.5),
        "laplace": stats.laplace(0, 0.5**0.5),
    }
    middles = (np.arange(400) + 0.5) / 400
    leanings = leaning * laws[spread].ppf(middles)
    outcomes = [(wins, 4 - wins) for wins in range(5)]
    weights = [math.comb(4, wins) * float(chance(wins, losses, leanings).mean()) for wins, losses in outcomes]
    total = 0.0
    for cast in itertools.combinations_with_replacement(range(5), 3):
        orders = math.factorial(3) / math.prod(math.factorial(cast.count(one)) for one in set(cast))
        won, lost = [outcomes[one][0] for one in cast], [outcomes[one][1] for one in cast]
        total += orders * math.prod(weights[one] for one in cast) * rater_e_value(*votes_of(won, lost))
    assert total <= 1


def test_one_rater_is_no_evidence_about_raters_and_ties_are_none_at_all() -> None:
    assert rater_e_value(*votes_of([500], [0])) < 1.2
    assert rater_e_value(np.full(20, 0.5), np.arange(20)) == 1
    assert rater_e_value(np.empty(0), np.empty(0, dtype=np.int64)) == 1
    assert math.isfinite(rater_e_value(*votes_of([50] * 3000, [2] * 3000)))


def test_many_raters_who_agree_are_evidence_and_a_rater_who_votes_much_is_still_one() -> None:
    many, one = votes_of([8] * 10, [2] * 10), votes_of([800] + [5] * 9, [200] + [5] * 9)
    assert rater_e_value(*many) > 50
    assert rater_e_value(*one) < 1


@pytest.mark.parametrize("leaning", [0.4, 0.8])
@pytest.mark.parametrize("order", ["rater after rater", "in turn"])
def test_looking_after_every_vote_of_raters_who_lean_rarely_finds_a_winner(leaning: float, order: str) -> None:
    rng, fooled, campaigns, limit = np.random.default_rng(11), 0, 30, math.log(20)
    for _ in range(campaigns):
        leanings = leaning * rng.standard_normal(8)
        rater = np.repeat(np.arange(8), 25) if order == "rater after rater" else np.tile(np.arange(8), 25)
        points = (rng.random(200) < 1 / (1 + np.exp(-leanings[rater]))).astype(np.float64)
        fooled += any(
            log_rater_e_value(rater_evidence(points[:end], rater[:end]), enough=limit, little=limit) >= limit
            for end in range(20, 201, 10)
        )
    assert fooled <= stats.binom.ppf(0.99, campaigns, 0.05)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=12))
def test_sides_mirror(cast: list[tuple[int, int]]) -> None:
    won, lost = [wins for wins, _ in cast], [losses for _, losses in cast]
    if not sum(won) + sum(lost):
        return
    evidence, mirrored = rater_evidence(*votes_of(won, lost)), rater_evidence(*votes_of(lost, won))
    assert log_rater_e_value(evidence) == pytest.approx(log_rater_e_value(mirrored), abs=0.02)
    assert evidence.side == -mirrored.side


def test_leaving_out_a_rater_is_the_evidence_of_the_others() -> None:
    won, lost = [9, 5, 7, 5, 0], [2, 4, 1, 4, 0]
    evidence = rater_evidence(*votes_of(won, lost))
    for rater in range(4):
        others = votes_of(won[:rater] + won[rater + 1 :], lost[:rater] + lost[rater + 1 :])
        assert log_rater_e_value(evidence.without(rater)) == pytest.approx(
            log_rater_e_value(rater_evidence(*others)), abs=0.02
        )


def test_stopping_early_decides_as_the_whole_does() -> None:
    rng, limit = np.random.default_rng(4), math.log(20)
    for _ in range(60):
        shares = rng.uniform(0.4, 0.95, 9)
        won = [int(wins) for wins in rng.binomial(12, shares)]
        evidence = rater_evidence(*votes_of(won, [12 - wins for wins in won]))
        whole = log_rater_e_value(evidence)
        if abs(whole - limit) > 0.05:
            assert (log_rater_e_value(evidence, enough=limit, little=limit) >= limit) == (whole >= limit)
