"""Evidence: exact expectations, false winners however votes arrive, and a confidence sequence that agrees with the
e-value.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from backend.domain.battles.inference.evidence import (
    OVERLAPS,
    SHARES,
    FloatArray,
    IntArray,
    confidence_sequence,
    e_value,
    e_value_path,
    frozen_scores,
    mixture_e_value,
)

ORDERS = ("round after round", "prompt after prompt", "at random")


def simulate(
    rng: np.random.Generator,
    *,
    prompts: int,
    raters: int,
    order: str,
    mean: float = 0.5,
    ties: float = 0.2,
    deviation: float = 0.2,
) -> tuple[FloatArray, IntArray]:
    """Votes of a campaign whose prompts favour one side or the other, in one of the orders in which votes arrive."""
    size = mean * (1 - mean) / deviation**2 - 1
    favour = rng.beta(mean * size, (1 - mean) * size, size=(prompts, 1))
    points = (rng.random((prompts, raters)) < favour).astype(np.float64)
    points[rng.random((prompts, raters)) < ties] = 0.5
    prompt = np.repeat(np.arange(prompts), raters).reshape(prompts, raters)
    if order == ORDERS[0]:
        return points.T.ravel(), prompt.T.ravel()
    arrival = rng.permutation(points.size) if order == ORDERS[2] else np.arange(points.size)
    return points.ravel()[arrival], prompt.ravel()[arrival]


@given(st.integers(1, 40))
def test_the_bet_has_expectation_one_under_the_null(n: int) -> None:
    chances = stats.binom.pmf(np.arange(n + 1), n, 0.5)
    values = [mixture_e_value(wins, n - wins) for wins in range(n + 1)]
    assert float(chances @ np.array(values)) == pytest.approx(1.0)


def test_the_bet_on_nothing_is_one_and_on_very_much_is_finite() -> None:
    assert mixture_e_value(0, 0) == pytest.approx(1.0)
    assert math.isfinite(mixture_e_value(100_000, 0))


def test_the_bet_on_fractions_is_the_integral_over_all_stakes() -> None:
    scores = np.array([1, 2, 3, 3, 0, 2, 1, 3, 3, 2]) / 3
    points = np.concatenate([[1.0] * round(3 * score) + [0.0] * round(3 - 3 * score) for score in scores])
    prompt = np.repeat(np.arange(10), 3)
    expected = integrate.quad(lambda q: float(np.prod(2 * q * scores + 2 * (1 - q) * (1 - scores))), 0, 1)[0]
    first = [points[3 * place] for place in range(10)]
    single = mixture_e_value(first.count(1.0), first.count(0.0))
    assert e_value(points, prompt) == pytest.approx(max(SHARES[0] * single, SHARES[1] * expected), rel=1e-9)


def test_one_vote_per_prompt_is_the_beta_binomial_mixture() -> None:
    points = np.array([1.0] * 15 + [0.0] * 3 + [0.5] * 4)
    assert e_value(points, np.arange(22)) == pytest.approx(0.75 * 2**18 / (19 * math.comb(18, 3)))


def test_a_frozen_score_is_never_revised() -> None:
    rng = np.random.default_rng(0)
    points, prompt = simulate(rng, prompts=12, raters=10, order="at random")
    for overlap in OVERLAPS[:3]:
        scores, completed = frozen_scores(points, prompt, overlap)
        for end in range(1, len(points), 7):
            earlier, when = frozen_scores(points[:end], prompt[:end], overlap)
            assert earlier == pytest.approx(scores[: len(earlier)])
            assert when.tolist() == completed[: len(when)].tolist()


def test_the_path_holds_the_e_value_of_every_beginning() -> None:
    points, prompt = simulate(np.random.default_rng(1), prompts=20, raters=5, order="at random", mean=0.7)
    path = e_value_path(points, prompt)
    assert path == pytest.approx(
        [e_value(points[: end + 1], prompt[: end + 1]) for end in range(len(points))], rel=1e-9
    )


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("prompts", "raters"), [(8, 50), (30, 1), (30, 10), (30, 50), (100, 3), (100, 20)])
def test_looking_after_every_vote_rarely_declares_a_false_winner_at_any_overlap(
    order: str, prompts: int, raters: int
) -> None:
    rng = np.random.default_rng(prompts + raters)
    fooled = sum(
        e_value_path(*simulate(rng, prompts=prompts, raters=raters, order=order)).max() >= 20 for _ in range(100)
    )
    assert fooled <= stats.binom.ppf(0.999, 100, 0.05)


def test_revising_a_prompts_score_with_every_vote_declares_more_false_winners_than_freezing_it() -> None:
    rng = np.random.default_rng(5)

    def revised(points: FloatArray, prompt: IntArray) -> float:
        sums = np.cumsum((points - 0.5).reshape(-1, prompt.max() + 1), axis=0)  # of each prompt, after each round
        return max(
            mixture_e_value(int(won), int(lost)) for won, lost in zip((sums > 0).sum(1), (sums < 0).sum(1), strict=True)
        )

    campaigns = [simulate(rng, prompts=30, raters=50, order=ORDERS[0], deviation=0.05) for _ in range(150)]
    frozen = sum(e_value_path(*campaign).max() >= 20 for campaign in campaigns)
    assert frozen < sum(revised(*campaign) >= 20 for campaign in campaigns)


def test_more_raters_per_prompt_find_a_winner_that_first_votes_do_not() -> None:
    rng = np.random.default_rng(2)
    campaigns = [simulate(rng, prompts=50, raters=10, order=ORDERS[0], mean=0.65, deviation=0.15) for _ in range(60)]
    by_all = np.mean([e_value_path(*campaign).max() >= 20 for campaign in campaigns])
    by_first = np.mean([e_value_path(points[:50], prompt[:50]).max() >= 20 for points, prompt in campaigns])
    assert by_all > by_first + 0.2


@pytest.mark.parametrize("raters", [1, 5, 20])
def test_the_confidence_sequence_holds_the_true_share_at_every_look(raters: int) -> None:
    rng, misses = np.random.default_rng(raters), 0
    for _ in range(50):
        points, prompt = simulate(rng, prompts=40, raters=raters, order="at random", mean=0.7, ties=0.0)
        looks = [len(points) // 4, len(points) // 2, len(points)]
        bounds = [confidence_sequence(points[:end], prompt[:end], alpha=0.05) for end in looks]
        misses += any(not low <= 0.7 <= high for low, high in bounds)
    assert misses <= stats.binom.ppf(0.999, 50, 0.05)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=80))
def test_the_interval_excludes_one_half_exactly_if_the_e_value_decides(votes: list[tuple[int, float]]) -> None:
    codes = {name: code for code, name in enumerate(dict.fromkeys(prompt for prompt, _ in votes))}
    points, prompt = np.array([score for _, score in votes]), np.array([codes[name] for name, _ in votes])
    low, high = confidence_sequence(points, prompt, alpha=0.3)
    assert (not low <= 0.5 <= high) == (e_value(points, prompt) >= 1 / 0.3)
    mirrored = confidence_sequence(1 - points, prompt, alpha=0.3)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-5)
