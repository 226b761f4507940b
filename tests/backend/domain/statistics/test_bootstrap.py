"""Bootstrap of corpus metrics against closed forms, another implementation and by simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from backend.domain.statistics.bootstrap import resample_corpus, resample_difference, resample_rows
from backend.domain.statistics.estimates import FloatArray, ratio_estimate
from backend.errors import InvalidInput


def ratio(sums: FloatArray) -> FloatArray:
    return sums[:, 0] / sums[:, 1]


def f1(sums: FloatArray) -> FloatArray:
    return 2 * sums[:, 0] / (2 * sums[:, 0] + sums[:, 1])


def test_ratio_error_agrees_with_a_bootstrap_of_documents() -> None:
    rng = np.random.default_rng(3)
    tokens = rng.integers(20, 400, size=300).astype(float)
    nlls = tokens * rng.normal(3.0, 0.5, size=300)
    by_formula, by_draws = (
        ratio_estimate(nlls, tokens),
        resample_corpus(np.column_stack([nlls, tokens]), ratio).estimate(),
    )
    assert by_formula.value == pytest.approx(by_draws.value)
    assert by_formula.stderr == pytest.approx(by_draws.stderr, rel=0.1)


def test_the_interval_is_the_bca_interval_of_scipy() -> None:
    skewed = np.random.default_rng(4).exponential(size=(40, 2)) ** 2
    ours = resample_corpus(skewed, ratio, num_resamples=20_000).estimate()
    theirs = stats.bootstrap(
        (skewed[:, 0], skewed[:, 1]),
        lambda a, b, axis: a.sum(axis) / b.sum(axis),
        paired=True,
        n_resamples=20_000,
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    assert ours.low == pytest.approx(theirs.confidence_interval.low, rel=0.04)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, rel=0.04)
    assert ours.stderr == pytest.approx(theirs.standard_error, rel=0.04)


def test_f1_of_a_thousand_items_has_the_error_of_the_delta_method() -> None:
    rng = np.random.default_rng(0)
    truth, guess = rng.random(1000) < 0.4, rng.random(1000) < 0.4
    guess = np.where(rng.random(1000) < 0.5, truth, guess)
    parts = np.column_stack([truth & guess, truth ^ guess]).astype(float)
    estimate = resample_corpus(parts, f1).estimate()
    precision_like = parts[:, 0].sum() * 2 / (2 * parts[:, 0].sum() + parts[:, 1].sum())
    residuals = 2 * parts[:, 0] - precision_like * (2 * parts[:, 0] + parts[:, 1])
    expected = np.sqrt((residuals**2).sum()) / (2 * parts[:, 0].sum() + parts[:, 1].sum())
    assert estimate.value == pytest.approx(precision_like)
    assert estimate.stderr == pytest.approx(expected, rel=0.08)


def test_bootstrap_of_clusters_draws_whole_clusters() -> None:
    scores = np.repeat([0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0], 25)
    parts = np.column_stack([scores, np.ones(200)])
    alone, together = (
        resample_corpus(parts, ratio).estimate(),
        resample_corpus(parts, ratio, clusters=np.repeat(np.arange(8), 25).tolist()).estimate(),
    )
    assert together.stderr is not None
    assert alone.stderr is not None
    assert together.stderr > 3 * alone.stderr


def test_a_difference_resamples_both_together() -> None:
    rng = np.random.default_rng(5)
    hardness = rng.normal(3.0, 1.0, size=200)
    first, second = (
        np.column_stack([hardness + shift + rng.normal(0, 0.1, 200), np.ones(200)]) for shift in (0.0, 0.05)
    )
    difference = resample_difference(first, second, ratio).estimate()
    assert difference.value == pytest.approx(0.05, abs=0.03)
    assert difference.low is not None
    assert difference.low > 0  # the two separate intervals overlap almost wholly
    assert resample_corpus(first, ratio).estimate().stderr > 5 * (difference.stderr or 0.0)  # type: ignore[operator]


def test_a_metric_that_most_draws_leave_undefined_has_no_interval() -> None:
    parts = np.zeros((30, 2))
    parts[0] = (1.0, 0.0)
    estimate = resample_corpus(parts, f1).estimate()
    assert (estimate.value, estimate.low) == (1.0, None)
    assert "undefined" in estimate.method


@pytest.mark.parametrize("parts", [np.empty((0, 2)), [[1.0, np.nan]]], ids=["none", "nan"])
def test_parts_that_are_no_numbers_are_refused(parts: FloatArray) -> None:
    with pytest.raises(InvalidInput):
        resample_corpus(parts, ratio)


@pytest.mark.parametrize("accelerated", [True, False], ids=["BCa", "percentiles"])
def test_p_is_below_one_minus_the_level_exactly_where_the_interval_excludes_zero(accelerated: bool) -> None:
    rng = np.random.default_rng(6)
    for shift in (0.0, 0.1, -0.15, 0.3, 1.5):
        gaps = rng.exponential(size=(60, 1)) - 1 + shift  # skewed, so that the two intervals differ
        if accelerated:
            resampled = resample_corpus(gaps, lambda sums: sums[:, 0], num_resamples=999)
        else:
            resampled = resample_rows(gaps, statistic=lambda rows: float(rows.sum()), num_resamples=999)
        p_value = resampled.p_value()
        assert p_value is not None
        assert 2 / 1000 <= p_value <= 1
        for level in (0.5, 0.8, 0.9, 0.95, 0.99, 0.995, max(0.01, 1 - p_value - 1e-6), min(0.995, 1 - p_value + 1e-6)):
            low, high = resampled.interval(level)
            assert (low > 0 or high < 0) == (p_value < 1 - level)


def test_p_of_a_bootstrap_is_that_of_students_t_where_scores_are_normal() -> None:
    for seed in range(5):
        gaps = np.random.default_rng(seed).normal(0.2, 1.0, size=(400, 1))
        resampled = resample_corpus(gaps, lambda sums: sums[:, 0], num_resamples=20_000)
        assert resampled.p_value() == pytest.approx(stats.ttest_1samp(gaps[:, 0], 0.0).pvalue, abs=0.006, rel=0.25)


def test_a_difference_that_never_varies_has_no_p_value() -> None:
    assert resample_corpus(np.zeros((20, 1)), lambda sums: sums[:, 0]).p_value() is None
    assert resample_corpus([[1.0]], lambda sums: sums[:, 0]).p_value() is None
