"""Models of a vote: probabilities sum to one, slopes are those of the values, and fits equal another optimiser's and
published tables.
"""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.battles.bradley_terry import LOSS, TIE, WIN, Fit, Method, maximise, sum_votes, terms_of, with_side
from backend.domain.battles.rating_table import ELO_PER_UNIT, share_of_gap
from backend.domain.battles.ratings import fit_ratings
from backend.domain.battles.votes import VoteRecord, encode_votes

OUTCOMES = np.array([WIN, TIE, LOSS])
TIE_METHODS: tuple[Method, ...] = ("davidson", "rao_kupper")
# Agresti, Categorical Data Analysis (2002), table 10.10: wins and losses of the home team, American League 1987
TEAMS = ("Milwaukee", "Detroit", "Toronto", "New York", "Boston", "Cleveland", "Baltimore")
HOME_GAMES = (
    ((4, 3), (4, 2), (4, 3), (6, 1), (4, 2), (6, 0)),
    ((3, 3), (4, 2), (4, 3), (6, 0), (6, 1), (4, 3)),
    ((2, 5), (4, 3), (2, 4), (4, 3), (4, 2), (6, 0)),
    ((3, 3), (5, 1), (2, 5), (4, 3), (4, 2), (6, 1)),
    ((5, 1), (2, 5), (3, 3), (4, 2), (5, 2), (6, 0)),
    ((2, 5), (3, 3), (3, 4), (4, 3), (4, 2), (2, 4)),
    ((2, 5), (1, 5), (1, 6), (2, 4), (1, 6), (3, 4)),
)
PLAIN = {
    "Milwaukee": 1.5814,
    "Detroit": 1.4364,
    "Toronto": 1.2945,
    "New York": 1.2476,
    "Boston": 1.1077,
    "Cleveland": 0.6839,
}


def baseball() -> list[VoteRecord]:
    """A vote per game, the home team on side a."""
    votes = []
    for home, row in zip(TEAMS, HOME_GAMES, strict=True):
        for away, (won, lost) in zip([team for team in TEAMS if team != home], row, strict=True):
            votes += [VoteRecord(f"{home} {away}", "umpire", home, away, winner) for winner in "A" * won + "B" * lost]
    return votes


def tied_votes(seed: int = 1) -> list[VoteRecord]:
    rng = np.random.default_rng(seed)
    pairs = [pair for pair in combinations("wxyz", 2) for _ in range(40)]
    return [
        VoteRecord(f"p{n % 30}", f"r{n % 7}", a, b, rng.choice(["A", "B", "TIE"], p=[0.5, 0.2, 0.3]))
        for n, (a, b) in enumerate(pairs)
    ]


@pytest.mark.parametrize("method", TIE_METHODS)
@given(gap=st.floats(-6, 6), tie=st.floats(0.05, 3))
def test_win_tie_and_loss_have_probabilities_that_sum_to_one(method: Method, gap: float, tie: float) -> None:
    terms = terms_of(method, np.full(3, gap), OUTCOMES, tie=tie)
    assert np.exp(terms.value).sum() == pytest.approx(1)


@pytest.mark.parametrize("method", ["bradley_terry", *TIE_METHODS])
@given(gap=st.floats(-6, 6), tie=st.floats(0.1, 3))
def test_slopes_and_curvatures_are_those_of_the_values(method: Method, gap: float, tie: float) -> None:
    step = 1e-5
    terms = terms_of(method, np.full(3, gap), OUTCOMES, tie=tie)
    up, down = (terms_of(method, np.full(3, gap + sign * step), OUTCOMES, tie=tie) for sign in (1, -1))
    np.testing.assert_allclose(terms.gap, (up.value - down.value) / (2 * step), atol=1e-6)
    np.testing.assert_allclose(terms.gap_gap, (down.gap - up.gap) / (2 * step), atol=1e-6)
    if terms.tie is None or terms.tie_tie is None or terms.gap_tie is None:
        return
    up, down = (terms_of(method, np.full(3, gap), OUTCOMES, tie=tie + sign * step) for sign in (1, -1))
    assert up.tie is not None
    assert down.tie is not None
    np.testing.assert_allclose(terms.tie, (up.value - down.value) / (2 * step), atol=1e-4)
    np.testing.assert_allclose(terms.tie_tie, (down.tie - up.tie) / (2 * step), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(terms.gap_tie, (down.gap - up.gap) / (2 * step), atol=1e-4)


@pytest.mark.parametrize("method", TIE_METHODS)
def test_a_fit_with_ties_equals_a_general_optimisers(method: Method) -> None:
    cells = sum_votes(encode_votes(tied_votes()))
    fit = maximise(cells, method=method)
    assert fit is not None
    assert fit.tie is not None

    def loss(params: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
        theta = np.concatenate([[0.0], params[:3]])
        gap = theta[cells.a] - theta[cells.b]
        if method == "davidson":
            win, tied, lost = np.exp(gap / 2), np.full(len(gap), math.exp(params[3])), np.exp(-gap / 2)
            chances = np.stack([win, tied, lost]) / (win + tied + lost)
        else:
            win, lost = scipy.special.expit(gap - params[3]), scipy.special.expit(-gap - params[3])
            chances = np.stack([win, 1 - win - lost, lost])
        return -float(cells.weight @ np.log(chances[cells.outcome, np.arange(len(gap))]))

    best = scipy.optimize.minimize(
        loss, [0, 0, 0, 0.5], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-11, "maxiter": 20_000}
    )
    assert fit.log_likelihood == pytest.approx(-best.fun, abs=1e-7)
    np.testing.assert_allclose(fit.theta - fit.theta[0], [0, *best.x[:3]], atol=1e-4)
    assert fit.tie == pytest.approx(best.x[3], abs=1e-4)


def effects(fit: Fit | None) -> Fit:
    assert fit is not None
    return fit


def test_baseball_gives_agrestis_abilities_and_home_advantage() -> None:
    columns = encode_votes(baseball())
    cells = sum_votes(columns)
    last = columns.contestants.index("Baltimore")
    plain, home = effects(maximise(cells)), effects(maximise(with_side(cells)))
    assert {team: plain.theta[columns.contestants.index(team)] - plain.theta[last] for team in PLAIN} == pytest.approx(
        PLAIN, abs=6e-5
    )
    assert home.effects[0] == pytest.approx(0.3023, abs=6e-5)
    assert home.theta[columns.contestants.index("Milwaukee")] - home.theta[last] == pytest.approx(1.6196, abs=6e-5)
    bias = fit_ratings(baseball(), cluster_by="none").position_bias
    assert bias is not None
    assert bias.value == pytest.approx(0.3023 * ELO_PER_UNIT, abs=0.02)


@pytest.mark.parametrize("method", TIE_METHODS)
def test_without_ties_all_methods_are_bradley_terry(method: Method) -> None:
    plain, other = fit_ratings(baseball()), fit_ratings(baseball(), method=method)
    assert [row.rating for row in other.ratings] == pytest.approx([row.rating for row in plain.ratings])
    assert [row.stderr for row in other.ratings] == pytest.approx([row.stderr for row in plain.ratings])
    assert other.tie_parameter == 0
    assert [fit.log_likelihood for fit in other.fits] == pytest.approx([plain.log_likelihood] * 3)


@pytest.mark.parametrize("method", TIE_METHODS)
def test_votes_that_do_not_bound_a_model_with_ties_are_rated_with_a_prior(method: Method) -> None:
    votes = [VoteRecord(f"p{n}", "r", "x", "y", "TIE" if n % 3 == 0 else "A") for n in range(12)]
    table = fit_ratings(votes, method=method)
    assert table.regularised
    assert "do not bound" in table.notes[0]
    assert not fit_ratings(votes).regularised


@pytest.mark.parametrize("method", TIE_METHODS)
def test_a_share_counts_ties_as_half(method: Method) -> None:
    table = fit_ratings(tied_votes(), method=method)
    best, worst = table.contestants[0], table.contestants[-1]
    pair, back = table.pair(best, worst), table.pair(worst, best)
    assert pair.share + back.share == pytest.approx(1)
    tie = table.tie_parameter
    gap = pair.difference / ELO_PER_UNIT
    log_tie = math.log(tie or 1) if method == "davidson" else tie
    win, tied, _ = np.exp(terms_of(method, np.full(3, gap), OUTCOMES, tie=log_tie).value)
    assert pair.share == pytest.approx(win + tied / 2)
    assert share_of_gap(5000, method=method, tie_parameter=tie) == pytest.approx(1, abs=1e-4)


def test_methods_are_compared_on_the_three_outcomes() -> None:
    table = fit_ratings(tied_votes())
    fits = {fit.method: fit for fit in table.fits}
    assert set(fits) == {"bradley_terry", "davidson", "rao_kupper"}
    assert fits["bradley_terry"].kendall_tau == 1
    assert fits["bradley_terry"].rank_changes == ()
    decisive = [vote for vote in tied_votes() if vote.winner != "TIE"]
    ties = len(tied_votes()) - len(decisive)
    # a constant chance of a tie, and at best the strengths of the decisive votes alone
    bound = (
        ties * math.log(ties / 240)
        + len(decisive) * math.log(len(decisive) / 240)
        + fit_ratings(decisive).log_likelihood
    )
    assert bound - 2 < fits["bradley_terry"].log_likelihood <= bound
