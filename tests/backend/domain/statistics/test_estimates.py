"""Scores, intervals and paired comparisons against published numbers, closed forms and simulated coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from backend.domain.statistics.bootstrap import bootstrap_interval
from backend.domain.statistics.calibration import brier, expected_calibration_error
from backend.domain.statistics.estimates import (
    bits_per_byte_estimate,
    clustered_mean_estimate,
    mean_estimate,
    pass_at_k,
    perplexity_estimate,
    proportion_estimate,
    ratio_estimate,
)
from backend.domain.statistics.multiplicity import benjamini_hochberg, holm
from backend.domain.statistics.paired import mcnemar, paired_difference
from backend.domain.statistics.power import minimum_detectable_effect, required_items
from backend.errors import InvalidInput

finite = st.floats(-100, 100, allow_nan=False)


def test_mean_of_14_right_in_60_has_the_standard_error_that_lm_eval_prints() -> None:
    estimate = mean_estimate([1.0] * 14 + [0.0] * 46)
    assert estimate.stderr == pytest.approx(0.05506, abs=1e-5)
    assert estimate.value == pytest.approx(14 / 60)


def test_mean_interval_is_students() -> None:
    scores = np.array([0.2, 0.5, 0.9, 0.4])
    estimate = mean_estimate(scores)
    low, high = stats.t.interval(0.95, 3, loc=scores.mean(), scale=stats.sem(scores))
    assert (estimate.low, estimate.high) == (pytest.approx(low), pytest.approx(high))


def test_one_score_has_no_interval() -> None:
    estimate = mean_estimate([0.7])
    assert (estimate.value, estimate.stderr, estimate.low, estimate.high) == (0.7, None, None, None)


@pytest.mark.parametrize("scores", [[], [1.0, math.nan], [math.inf]], ids=["none", "nan", "infinite"])
def test_scores_that_are_no_numbers_are_refused(scores: list[float]) -> None:
    with pytest.raises(InvalidInput):
        mean_estimate(scores)


@pytest.mark.parametrize(("successes", "n"), [(0, 30), (1, 20), (14, 60), (200, 200)])
def test_wilson_interval_equals_scipys(successes: int, n: int) -> None:
    estimate = proportion_estimate(successes, n)
    expected = stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert (estimate.low, estimate.high) == (pytest.approx(expected.low, abs=1e-12), pytest.approx(expected.high))


def test_no_failure_in_thirty_still_allows_a_tenth() -> None:
    estimate = proportion_estimate(0, 30)
    assert estimate.low == 0.0
    assert estimate.high is not None
    assert estimate.high > 3 / 30
    assert estimate.stderr is not None
    assert estimate.stderr > 0


def test_more_successes_than_items_are_refused() -> None:
    with pytest.raises(InvalidInput, match="31 successes of 30"):
        proportion_estimate(31, 30)


@given(st.lists(finite, min_size=2, max_size=30))
def test_clusters_of_one_item_change_nothing(scores: list[float]) -> None:
    plain, clustered = mean_estimate(scores), clustered_mean_estimate(scores, range(len(scores)))
    assert clustered.value == pytest.approx(plain.value, abs=1e-9)
    assert clustered.stderr == pytest.approx(plain.stderr, abs=1e-9)


def test_asking_every_item_twice_does_not_narrow_a_clustered_interval() -> None:
    scores = [0.0, 1.0, 1.0, 0.0, 1.0]
    once, twice = mean_estimate(scores), clustered_mean_estimate(scores * 2, list(range(5)) * 2)
    assert twice.stderr == pytest.approx(once.stderr)


def test_clustered_interval_covers_where_the_plain_one_does_not() -> None:
    rng = np.random.default_rng(7)
    codes = np.repeat(np.arange(60), 6)
    hits = {"plain": 0, "clustered": 0}
    for _ in range(400):
        scores = rng.normal(size=60)[codes] + rng.normal(size=360)
        for name, estimate in (("plain", mean_estimate(scores)), ("clustered", clustered_mean_estimate(scores, codes.tolist()))):
            hits[name] += (estimate.low or 0.0) <= 0.0 <= (estimate.high or 0.0)
    assert hits["clustered"] / 400 == pytest.approx(0.95, abs=0.03)
    assert hits["plain"] / 400 < 0.85


def test_one_cluster_gives_no_interval() -> None:
    assert clustered_mean_estimate([0.1, 0.9], ["a", "a"]).stderr is None


def test_perplexity_of_a_uniform_network_is_its_vocabulary() -> None:
    tokens = [7, 100, 31]
    estimate = perplexity_estimate([count * math.log(329) for count in tokens], tokens)
    assert estimate.value == pytest.approx(329)
    assert estimate.high == pytest.approx(329)


def test_bits_per_byte_divide_all_bits_by_all_bytes() -> None:
    estimate = bits_per_byte_estimate([10.0, 30.0], [8, 12])
    assert estimate.value == pytest.approx(40 / math.log(2) / 20)
    assert estimate.stderr is not None
    assert estimate.n == 2


def test_ratio_error_agrees_with_a_bootstrap_of_documents() -> None:
    rng = np.random.default_rng(3)
    tokens = rng.integers(20, 400, size=300).astype(float)
    nlls = tokens * rng.normal(3.0, 0.5, size=300)
    by_formula = ratio_estimate(nlls, tokens)
    by_draws = bootstrap_interval(np.column_stack([nlls, tokens]), statistic=lambda rows: rows[:, 0].sum() / rows[:, 1].sum())
    assert by_formula.value == pytest.approx(by_draws.value)
    assert by_formula.stderr == pytest.approx(by_draws.stderr, rel=0.1)


def test_perplexity_interval_is_the_exponential_of_the_nll_interval() -> None:
    plain, exp = ratio_estimate([30.0, 80.0, 41.0], [10, 30, 15]), perplexity_estimate([30.0, 80.0, 41.0], [10, 30, 15])
    assert exp.low == pytest.approx(math.exp(plain.low or 0.0))
    assert exp.high == pytest.approx(math.exp(plain.high or 0.0))


def test_ratio_of_unequal_lengths_is_refused() -> None:
    with pytest.raises(InvalidInput, match="2 numerators do not match 3"):
        ratio_estimate([1.0, 2.0], [1, 2, 3])


def test_bootstrap_of_clusters_draws_whole_clusters() -> None:
    scores = np.repeat([0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0], 25)
    clusters = np.repeat(np.arange(8), 25).tolist()
    alone = bootstrap_interval(scores, statistic=lambda rows: float(rows.mean()))
    together = bootstrap_interval(scores, statistic=lambda rows: float(rows.mean()), clusters=clusters)
    assert together.stderr is not None
    assert alone.stderr is not None
    assert together.stderr > 3 * alone.stderr


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


def test_equal_gains_on_every_item_are_judged_by_their_signs() -> None:
    result = paired_difference([0.5] * 8, [0.75] * 8)
    assert result.p_value == pytest.approx(2 * 0.5**8)


def test_unequal_lengths_are_not_paired() -> None:
    with pytest.raises(InvalidInput, match="3 scores can't be paired with 2"):
        paired_difference([1, 0, 1], [1, 0])


def test_holm_adjusts_the_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_benjamini_hochberg_equals_scipys() -> None:
    values = [0.01, 0.2, 0.03, 0.005, 0.9]
    assert benjamini_hochberg(values) == pytest.approx(list(stats.false_discovery_control(values)))


@given(st.lists(st.floats(0, 1), max_size=12))
def test_adjusting_never_lowers_a_p_value(values: list[float]) -> None:
    for adjusted in (holm(values), benjamini_hochberg(values)):
        assert all(before - 1e-12 <= after <= 1.0 for before, after in zip(values, adjusted, strict=True))


def test_a_p_value_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidInput, match="between 0 and 1"):
        holm([0.2, math.nan])


@pytest.mark.parametrize(("n", "c", "k"), [(10, 3, 1), (10, 3, 5), (10, 9, 2), (4, 0, 2), (200, 37, 100)])
def test_pass_at_k_is_the_binomial_ratio(n: int, c: int, k: int) -> None:
    assert pass_at_k(n, c, k) == pytest.approx(1 - math.comb(n - c, k) / math.comb(n, k))


def test_more_picks_than_samples_are_refused() -> None:
    with pytest.raises(InvalidInput, match="pass@5"):
        pass_at_k(3, 1, 5)


def test_three_points_need_millers_969_items() -> None:
    assert required_items(0.03) == 969


def test_detectable_effect_and_required_items_are_inverse() -> None:
    assert minimum_detectable_effect(969, difference_sd=1 / 3) == pytest.approx(0.03, abs=1e-4)


def test_confidence_of_eighty_with_sixty_right_has_ece_of_a_fifth() -> None:
    confidences, correct = [0.8] * 50, [1.0] * 30 + [0.0] * 20
    assert expected_calibration_error(confidences, correct) == pytest.approx(0.2)
    assert brier(confidences, correct) == pytest.approx(0.28)


@given(st.permutations(range(30)))
def test_calibration_error_does_not_depend_on_the_order_of_items(order: list[int]) -> None:
    confidences = np.repeat([0.3, 0.55, 0.9], 10)
    correct = (np.arange(30) % 3 > 0).astype(float)
    assert expected_calibration_error(confidences[order], correct[order]) == pytest.approx(expected_calibration_error(confidences, correct))
