"""Boards of single-answer ratings: shares and means, and two-way intervals against their definition and in
simulation.
"""

from __future__ import annotations

import numpy as np
import pytest

from backend.domain.battles.answer_ratings import Grade, grade_contestants, two_way_mean
from backend.domain.statistics.estimates import clustered_mean_estimate

ANY = (-np.inf, np.inf)


def test_thumbs_give_shares_and_stars_give_means() -> None:
    values = {"x": [5, 5, 1, 5], "y": [1, 5, 1, 1]}
    grades = [Grade(name, f"p{n}", f"r{n % 3}", values[name][n]) for name in values for n in range(4)]
    up = grade_contestants(grades, scale="thumbs")
    assert [(row.contestant, row.score.value, row.ratings, row.prompts, row.raters) for row in up] == [
        ("x", 0.75, 4, 4, 3),
        ("y", 0.25, 4, 4, 3),
    ]
    assert [row.score.value for row in grade_contestants(grades, scale="stars")] == [4.0, 2.0]
    assert up[0].score.high == 1.0, "a share ends at 1"


def test_one_rating_a_prompt_by_one_rater_each_is_a_mean_of_independent_values() -> None:
    values = np.array([1.0, 4.0, 5.0, 2.0, 3.0])
    names = [str(n) for n in range(5)]
    estimate = two_way_mean(values, names, names, bounds=ANY)
    assert estimate.stderr == pytest.approx(values.std(ddof=1) / 5**0.5)


def test_the_variance_is_that_of_prompts_and_raters_less_their_overlap() -> None:
    rng = np.random.default_rng(1)
    prompts, raters = np.divmod(np.arange(60), 6)
    values = rng.normal(size=10)[prompts] + rng.normal(size=6)[raters] + rng.normal(size=60)
    by = [clustered_mean_estimate(values, codes.tolist()).stderr or 0.0 for codes in (prompts, raters, np.arange(60))]
    estimate = two_way_mean(values, prompts.tolist(), raters.tolist(), bounds=ANY)
    assert estimate.stderr == pytest.approx((by[0] ** 2 + by[1] ** 2 - by[2] ** 2) ** 0.5)


def test_intervals_hold_the_mean_that_more_prompts_and_raters_would_give() -> None:
    rng, held = np.random.default_rng(2), 0
    prompts, raters = np.divmod(np.arange(20 * 8), 8)
    for _ in range(300):
        values = 3 + 0.6 * rng.normal(size=20)[prompts] + 0.4 * rng.normal(size=8)[raters] + 0.8 * rng.normal(size=160)
        estimate = two_way_mean(values, prompts.tolist(), raters.tolist(), bounds=ANY)
        assert estimate.low is not None
        assert estimate.high is not None
        held += estimate.low < 3 < estimate.high
    assert held / 300 == pytest.approx(0.95, abs=0.035)


def test_one_rater_gives_no_interval() -> None:
    (row,) = grade_contestants([Grade("x", f"p{n}", "r", n % 5 + 1) for n in range(10)], scale="stars")
    assert (row.score.low, row.score.high) == (None, None)
