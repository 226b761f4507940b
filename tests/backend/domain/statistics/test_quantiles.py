"""Intervals of quantiles against tables, scipy and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from backend.domain.statistics.quantiles import MIN_VALUES, median_difference, nearest_rank, quantile_interval


@pytest.mark.parametrize(("n", "quantile"), [(20, 0.5), (59, 0.5), (100, 0.9), (200, 0.95), (1000, 0.99)])
def test_ranks_are_those_of_the_binomial_distribution_of_scipy(n: int, quantile: float) -> None:
    interval = quantile_interval(range(1, n + 1), quantile)
    assert interval is not None
    low, high = map(int, interval)
    assert binom.cdf(low - 1, n, quantile) <= 0.025 < binom.cdf(low, n, quantile)
    assert binom.cdf(high - 1, n, quantile) >= 0.975 > binom.cdf(high - 2, n, quantile)


def test_the_median_of_ten_values_lies_between_the_second_and_the_ninth() -> None:
    """A table entry found in every textbook: 97.9 % for ranks 2 and 9."""
    assert quantile_interval(range(1, 11), 0.5) == (2, 9)


def test_a_high_percentile_of_few_values_has_no_interval() -> None:
    assert quantile_interval(range(71), 0.95) is None
    assert quantile_interval(range(72), 0.95) is not None
    assert quantile_interval((), 0.5) is None


def test_percentiles_are_those_of_numpy_by_inverted_cdf() -> None:
    values = sorted(np.random.default_rng(3).lognormal(size=97))
    for quantile in (0.5, 0.95, 0.99):
        assert nearest_rank(values, quantile) == np.quantile(values, quantile, method="inverted_cdf")


def test_intervals_of_a_difference_of_medians_hold_it_in_about_95_of_100_repetitions() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(800):
        first, second = np.sort(rng.lognormal(size=40)) + 0.5, np.sort(rng.lognormal(sigma=0.5, size=60))
        made = median_difference(first, second)
        assert made is not None
        held += made[1] <= 0.5 <= made[2]
    assert 0.93 <= held / 800 <= 0.985  # a little wide, as its authors found
    assert median_difference(range(MIN_VALUES - 1), range(50)) is None
