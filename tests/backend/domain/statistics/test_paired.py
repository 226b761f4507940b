"""Paired comparisons against published numbers, other implementations, and by simulation."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from backend.domain.statistics.estimates import mean_estimate
from backend.domain.statistics.paired import (
    PairedComparison,
    difference_interval,
    equal_differences,
    mcnemar,
    paired_difference,
    paired_macro,
    paired_ratio,
)
from backend.errors import InvalidInput


def test_mcnemar_of_ten_and_two_is_the_textbooks() -> None:
    assert mcnemar(10, 2) == pytest.approx(0.03857, abs=1e-5)
    assert mcnemar(2, 10) == mcnemar(10, 2)
    assert mcnemar(0, 0) == 1.0


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_equals_scipys_binomial_test(wins: int, losses: int) -> None:
    expected = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert mcnemar(wins, losses) == pytest.approx(expected)


def test_paired_comparison_of_right_and_wrong_uses_mcnemar() -> None:
    first = [0.0] * 10 + [1.0] * 2 + [1.0] * 28
    second = [1.0] * 10 + [0.0] * 2 + [1.0] * 28
    result = paired_difference(first, second)
    assert (result.wins, result.losses, result.ties, result.n) == (10, 2, 28, 40)
    assert result.p_value == pytest.approx(0.03857, abs=1e-5)
    assert result.difference.value == pytest.approx(0.2)


def test_two_checkpoints_that_never_differ_still_have_an_interval() -> None:
    result = paired_difference([1.0, 0.0] * 10, [1.0, 0.0] * 10)
    assert result.p_value == 1.0
    assert result.difference.low is not None
    assert result.difference.high is not None
    assert result.difference.low < 0.0 < result.difference.high


def test_paired_comparison_of_real_scores_equals_scipys_t_test() -> None:
    rng = np.random.default_rng(1)
    first = rng.normal(size=40)
    second = first + rng.normal(0.2, 0.5, size=40)
    result, expected = paired_difference(first, second), stats.ttest_rel(second, first)
    assert result.p_value == pytest.approx(expected.pvalue)
    assert result.difference.low == pytest.approx(expected.confidence_interval().low)


def test_pairing_finds_what_two_separate_intervals_hide() -> None:
    rng = np.random.default_rng(2)
    difficulty = rng.normal(size=200)
    first, second = difficulty + rng.normal(scale=0.2, size=200), difficulty + 0.1 + rng.normal(scale=0.2, size=200)
    one, two = mean_estimate(first), mean_estimate(second)
    assert (one.high or 0.0) > (two.low or 0.0)
    result = paired_difference(first, second)
    assert result.p_value is not None
    assert result.p_value < 1e-4


def test_paired_comparison_counts_clusters_not_items() -> None:
    first, second = [0.0] * 40, [1.0] * 30 + [0.0] * 10
    result = paired_difference(first, second, clusters=[item // 10 for item in range(40)])
    assert result.method == "paired t test, clustered"
    assert result.p_value is not None
    assert result.p_value > 0.05 > (paired_difference(first, second).p_value or 0.0)


def test_equal_gains_on_every_item_are_no_certainty() -> None:
    """Eight equal gains of a quarter gave p = 0.008 and an interval without width."""
    result = paired_difference([0.5] * 8, [0.75] * 8)
    assert result.p_value == pytest.approx(2 * 1.25**-8)
    assert result.difference.low is not None
    assert result.difference.high is not None
    assert result.difference.low < 0.0 < 0.25 < result.difference.high


def test_equal_gains_of_unbounded_scores_are_undecided() -> None:
    result = paired_ratio([-2.0] * 5, [10.0] * 5)
    assert (result.p_value, result.difference.low, result.difference.value) == (None, None, pytest.approx(-0.2))


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [1, 2, 5, 12, 40, 1000])
def test_p_below_five_percent_and_an_interval_without_zero_are_one_decision(n: int, level: float) -> None:
    """60 against 40 of 1,000 gave p = 0.057 beside an interval from +0.0002 to +0.0397."""
    for discordant in sorted({*range(min(n, 14)), n // 10, n}):
        for wins in range(0, discordant + 1, max(1, discordant // 60)):
            interval = difference_interval(wins, discordant - wins, n, level=level)
            assert interval.low is not None
            assert interval.high is not None
            assert interval.low <= interval.value <= interval.high
            assert (mcnemar(wins, discordant - wins) < 1 - level) == (interval.low > 0 or interval.high < 0)


@given(st.floats(-1, 1), st.integers(1, 200), st.sampled_from([0.9, 0.95, 0.99]))
def test_equal_differences_decide_alike_by_p_and_by_interval(difference: float, n: int, level: float) -> None:
    low, high, p_value = equal_differences(difference, n, level=level)
    assert (p_value < 1 - level - 1e-9) <= (low > 0 or high < 0) <= (p_value < 1 - level + 1e-9)
    assert -1 - 1e-9 <= low <= difference <= high <= 1 + 1e-9


def test_equal_differences_of_one_are_the_sign_test() -> None:
    assert equal_differences(1.0, 6)[2] == pytest.approx(mcnemar(6, 0))


def test_interval_without_a_discordant_pair_is_about_the_rule_of_three() -> None:
    interval = difference_interval(0, 0, 100)
    assert interval.high == pytest.approx(3.84 / 103.84, abs=1e-3)
    assert interval.low == pytest.approx(-(interval.high or 0.0))


@pytest.mark.parametrize(("wins", "losses", "n"), [(1, 7, 21), (30, 12, 90), (9, 0, 25)])
def test_outer_bound_is_the_score_interval_by_another_route(wins: int, losses: int, n: int) -> None:
    """The bound away from 0 is Tango's: its share maximises the likelihood under the hypothesis, found here by a
    search.
    """

    def p_value(delta: float) -> float:
        def loss(share: float) -> float:
            cells = (share + delta, share, 1 - 2 * share - delta)
            return -sum(
                count * np.log(max(cell, 1e-300))
                for count, cell in zip((wins, losses, n - wins - losses), cells, strict=True)
            )

        share = optimize.minimize_scalar(
            loss, bounds=(max(0.0, -delta), (1 - delta) / 2), method="bounded", options={"xatol": 1e-10}
        ).x
        return float(2 * stats.norm.sf(abs(wins - losses - n * delta) / np.sqrt(n * (2 * share + delta - delta**2))))

    interval = difference_interval(wins, losses, n)
    outer = interval.low if wins < losses else interval.high
    assert outer is not None
    assert p_value(outer) == pytest.approx(0.05, abs=2e-3)


def test_score_interval_of_the_airway_study_is_the_published_one() -> None:
    """Fagerland, Lydersen and Laake (2014), Statistics in Medicine 33: 1 against 7 of 21 discordant, exact p 0.0703."""
    interval = difference_interval(1, 7, 21)
    assert mcnemar(1, 7) == pytest.approx(0.0703, abs=1e-4)
    assert interval.low == pytest.approx(-0.517, abs=1e-3)


def test_unequal_lengths_are_not_paired() -> None:
    with pytest.raises(InvalidInput, match="3 scores can't be paired with 2"):
        paired_difference([1, 0, 1], [1, 0])


def subgroup(wins: int, losses: int, n: int, level: float) -> PairedComparison:
    gaps = np.repeat([1.0, -1.0, 0.0], [wins, losses, n - wins - losses])
    before = (gaps < 0).astype(float)
    return paired_difference(before, before + gaps, level=level)


Counts = tuple[int, int, int]


def macro(*counts: Counts, level: float = 0.95) -> PairedComparison:
    return paired_macro([partial(subgroup, *one) for one in counts], level=level)


def test_a_macro_difference_is_the_mean_of_its_subgroups_whatever_their_sizes() -> None:
    result = macro((8, 2, 10), (100, 300, 1000))
    assert result.difference.value == pytest.approx((0.6 - 0.2) / 2)
    assert (result.n, result.wins, result.losses, result.ties) == (1010, 108, 302, 600)
    micro = subgroup(108, 302, 1010, 0.95)
    assert micro.difference.value < -0.1  # of the other sign, and "significant"
    assert result.difference.stderr == pytest.approx(
        0.5 * np.hypot(*(subgroup(*one, 0.95).difference.stderr or 0.0 for one in ((8, 2, 10), (100, 300, 1000))))
    )


def test_a_macro_average_of_one_subgroup_is_that_subgroup() -> None:
    alone, whole = subgroup(30, 12, 200, 0.95), macro((30, 12, 200))
    assert (whole.difference.low, whole.difference.high) == pytest.approx((alone.difference.low, alone.difference.high))
    assert whole.p_value == pytest.approx(alone.p_value, rel=1e-3)


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(1, 30)), min_size=1, max_size=5),
    st.sampled_from([0.9, 0.95]),
)
def test_p_and_interval_of_a_macro_average_agree(counts: list[tuple[int, int, int]], level: float) -> None:
    result = macro(*((wins, losses, wins + losses + rest) for wins, losses, rest in counts), level=level)
    low, high, p_value = result.difference.low, result.difference.high, result.p_value
    assert low is not None
    assert high is not None
    assert p_value is not None
    if abs(p_value - (1 - level)) > 1e-4:
        assert (p_value < 1 - level) == (low > 0 or high < 0)
