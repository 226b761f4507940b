"""Whether configs differ by more than their seeds: against a published example, another implementation, and by
simulation.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from backend.domain.training.comparisons import SeedGroup, compare_seeds, seeds_needed

losses = st.lists(st.floats(0.1, 10.0), min_size=2, max_size=8, unique=True)

# NIST/SEMATECH e-Handbook of Statistical Methods, section 1.3.5.3, "Two-Sample t-Test for Equal Means", takes miles per
# gallon of 249 and
# 79
# cars; by their means and standard deviations it gives a t of -12.94621 for unequal variances with 136.8750 degrees of
# freedom.
NIST = ((20.14458, 6.414700, 249), (30.48101, 6.107710, 79))


def sample(mean: float, sd: float, n: int) -> SeedGroup:
    """Values with exactly this mean and standard deviation."""
    raw = np.linspace(-1, 1, n)
    return SeedGroup(tuple(mean + sd * (raw - raw.mean()) / raw.std(ddof=1)))


def test_a_published_example_comes_out_as_published() -> None:
    first, second = (sample(*numbers) for numbers in NIST)
    result = compare_seeds(first, second)
    assert result.low is not None
    assert result.high is not None
    error = (result.high - result.low) / 2 / stats.t.ppf(0.975, 136.8750)
    assert result.difference / error == pytest.approx(12.94621, abs=2e-4)
    assert result.is_beyond_noise


@given(losses, losses)
def test_interval_and_p_value_are_those_of_scipy(a: list[float], b: list[float]) -> None:
    ours = compare_seeds(SeedGroup(tuple(a)), SeedGroup(tuple(b)))
    theirs = stats.ttest_ind(b, a, equal_var=False)
    interval = theirs.confidence_interval(0.95)
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-6, abs=1e-12)
    assert (ours.low, ours.high) == (pytest.approx(interval.low, abs=1e-8), pytest.approx(interval.high, abs=1e-8))


@given(losses, losses)
def test_swapping_the_groups_negates_the_difference(a: list[float], b: list[float]) -> None:
    one, two = (compare_seeds(SeedGroup(tuple(x)), SeedGroup(tuple(y))) for x, y in ((a, b), (b, a)))
    assert (one.difference, one.low, one.p_value) == (
        pytest.approx(-two.difference),
        pytest.approx(-(two.high or 0)),
        pytest.approx(two.p_value),
    )


def test_seeds_alone_are_called_a_difference_in_one_case_of_twenty() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(2.0, 0.01, (2000, 2, 3))
    called = sum(bool(compare_seeds(SeedGroup(tuple(a)), SeedGroup(tuple(b))).is_beyond_noise) for a, b in draws)
    assert 40 <= called <= 120  # 5 % of 2,000, and less with three seeds each, where Welch's test is careful


def test_one_seed_gives_no_interval() -> None:
    result = compare_seeds(SeedGroup((2.0,)), SeedGroup((1.0, 1.1, 1.2)))
    assert (result.is_beyond_noise, result.low) == (None, None)
    assert "may be seed noise" in result.conclusion()


def test_a_conclusion_names_difference_interval_and_seeds() -> None:
    noisy = compare_seeds(SeedGroup((2.00, 2.02, 1.98)), SeedGroup((2.01, 2.03, 1.99)))
    assert noisy.conclusion().startswith(
        "a difference in last validation loss of 0.0100, within seed noise (95 % interval"
    )
    clear = compare_seeds(SeedGroup((2.00, 2.01)), SeedGroup((3.00, 3.01)))
    assert "more than seed noise" in clear.conclusion()
    assert "Three or more seeds" in clear.conclusion()


@pytest.mark.parametrize("second", [(2.0, 2.0), (2.5, 2.5)], ids=["equal means", "other means"])
def test_equal_losses_of_each_config_are_undecided_and_no_certainty(second: tuple[float, ...]) -> None:
    result = compare_seeds(SeedGroup((2.0, 2.0)), SeedGroup(second))
    assert (result.p_value, result.low, result.is_beyond_noise) == (None, None, None)
    assert "undecided" in result.conclusion()
    assert seeds_needed(SeedGroup((2.0, 2.0)), SeedGroup(second)) is None


def test_the_seeds_that_are_needed_grow_with_the_noise() -> None:
    assert seeds_needed(sample(2.0, 0.01, 3), sample(2.02, 0.01, 3)) == 6  # G*Power 3: d = 2, power 0.8, two-sided 5 %
    assert seeds_needed(sample(2.0, 0.01, 3), sample(2.01, 0.01, 3)) == 17  # d = 1: Cohen 1988, table 2.4.1
    assert seeds_needed(sample(2.0, 0.01, 3), sample(2.0001, 0.01, 3)) is None
    assert seeds_needed(SeedGroup((2.0,)), SeedGroup((2.1,))) is None
