"""Scores, intervals and paired comparisons against published numbers, closed forms and simulated coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from backend.domain.statistics.estimates import (
    Estimate,
    bits_per_byte_estimate,
    clustered_mean_estimate,
    macro_average,
    mean_estimate,
    micro_average,
    pass_at_k,
    perplexity_estimate,
    proportion_estimate,
    ratio_estimate,
    share_estimate,
)
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
        for name, estimate in (
            ("plain", mean_estimate(scores)),
            ("clustered", clustered_mean_estimate(scores, codes.tolist())),
        ):
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


def test_perplexity_interval_is_the_exponential_of_the_nll_interval() -> None:
    plain, exp = ratio_estimate([30.0, 80.0, 41.0], [10, 30, 15]), perplexity_estimate([30.0, 80.0, 41.0], [10, 30, 15])
    assert exp.low == pytest.approx(math.exp(plain.low or 0.0))
    assert exp.high == pytest.approx(math.exp(plain.high or 0.0))


def test_ratio_of_unequal_lengths_is_refused() -> None:
    with pytest.raises(InvalidInput, match="2 numerators do not match 3"):
        ratio_estimate([1.0, 2.0], [1, 2, 3])


@pytest.mark.parametrize(("n", "c", "k"), [(10, 3, 1), (10, 3, 5), (10, 9, 2), (4, 0, 2), (200, 37, 100)])
def test_pass_at_k_is_the_binomial_ratio(n: int, c: int, k: int) -> None:
    assert pass_at_k(n, c, k) == pytest.approx(1 - math.comb(n - c, k) / math.comb(n, k))


def test_more_picks_than_samples_are_refused() -> None:
    with pytest.raises(InvalidInput, match="pass@5"):
        pass_at_k(3, 1, 5)


def test_share_of_items_in_clusters_is_as_wide_as_the_clusters_make_it() -> None:
    answers, passages = [1.0] * 10 + [0.0] * 10 + [1.0] * 20, [item // 10 for item in range(40)]
    alone, together = share_estimate(answers), share_estimate(answers, clusters=passages)
    assert alone.stderr is not None
    assert together.stderr is not None
    assert together.stderr > 2 * alone.stderr
    assert (together.low or 0.0) < (alone.low or 0.0)
    assert together.high is not None
    assert together.high <= 1.0
    assert together.method == "Wilson 95 % with Student's t (3 df), 4 clusters"


def test_share_of_clusters_that_are_all_right_counts_clusters_not_items() -> None:
    together = share_estimate([1.0] * 40, clusters=[item // 10 for item in range(40)])
    assert together.high == 1.0
    assert together.low is not None
    assert together.low < 0.5


def test_share_whose_clusters_have_equal_means_is_worth_its_items() -> None:
    """Every template half right: clusters say nothing against independent items. As clusters that count as items the
    interval of 1,200 answers was [30.9, 69.1] %, beside [46.7, 52.6] % with four answers changed.
    """
    templates = [item // 50 for item in range(1200)]
    equal = share_estimate([float(item % 2) for item in range(1200)], clusters=templates)
    critical = stats.t.ppf(0.975, 23)
    margin = critical / (1 + critical**2 / 1200) * math.sqrt(0.25 / 1200 + critical**2 / (4 * 1200**2))
    assert (equal.low, equal.high) == (pytest.approx(0.5 - margin), pytest.approx(0.5 + margin))
    near = share_estimate([0.0] * 8 + [float(item % 2) for item in range(8, 1200)], clusters=templates)
    assert (near.low, near.high) == pytest.approx((equal.low, equal.high), abs=0.004)
    assert near.method == equal.method == "Wilson 95 % with Student's t (23 df), 24 clusters"


def test_clusters_of_one_item_change_no_share() -> None:
    assert share_estimate([1.0, 0.0, 1.0], clusters=["a", "b", "c"]) == share_estimate([1.0, 0.0, 1.0])


def test_share_with_shared_credit_keeps_its_interval_within_bounds() -> None:
    estimate = share_estimate([1.0] * 9 + [0.5])
    assert estimate.value == pytest.approx(0.95)
    assert estimate.high is not None
    assert 0.95 < estimate.high <= 1.0
    with pytest.raises(InvalidInput, match=r"got 1\.5"):
        share_estimate([0.0, 1.5])


def test_perplexity_of_few_long_targets_has_a_bound_beyond_every_float() -> None:
    estimate = perplexity_estimate([20.0, 180.0], [1, 1])
    assert estimate.value == pytest.approx(math.exp(100.0))
    assert estimate.high == math.inf


@pytest.mark.parametrize(("scores", "has_width"), [([0, 1, 1], True), ([0.5, 0.5], False), ([1], False)])
def test_an_interval_of_equal_scores_has_no_width(scores: list[float], has_width: bool) -> None:
    assert mean_estimate(scores).has_width is has_width


TASKS = [Estimate(0.5, 0.05, 0.4, 0.6, 100, ""), Estimate(0.8, 0.02, 0.76, 0.84, 400, "")]


def test_macro_average_counts_tasks_and_micro_average_items() -> None:
    macro, micro = macro_average(TASKS), micro_average(TASKS)
    assert (macro.value, macro.n) == (pytest.approx(0.65), 500)
    assert macro.stderr == pytest.approx(math.sqrt(0.05**2 + 0.02**2) / 2)
    assert micro.value == pytest.approx(0.74)
    assert micro.stderr == pytest.approx(math.sqrt((100 * 0.05) ** 2 + (400 * 0.02) ** 2) / 500)
    assert macro.method.startswith("macro average of 2 tasks")
    assert micro.method.startswith("micro average of 2 tasks")


def test_micro_average_is_stratified_and_so_no_wider_than_that_of_the_pooled_items() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(centre, 1.0, size=200) for centre in (0.0, 3.0)]
    pooled, micro = mean_estimate(np.concatenate(parts)), micro_average([mean_estimate(part) for part in parts])
    assert micro.value == pytest.approx(pooled.value)
    assert micro.stderr is not None
    assert pooled.stderr is not None
    assert micro.stderr < 0.6 * pooled.stderr


def test_the_interval_of_an_average_is_made_of_its_tasks_and_stays_within_their_bounds() -> None:
    wrong, right = proportion_estimate(0, 1), proportion_estimate(3, 3)
    for average in (macro_average, micro_average):
        assert average([wrong, wrong]).low == 0.0
        assert average([right, right]).high == 1.0
        alone = average([right])
        assert (alone.low, alone.high) == (pytest.approx(right.low), 1.0)
    assert wrong.high is not None
    assert macro_average([wrong, wrong]).high == pytest.approx(wrong.high / math.sqrt(2))
    macro = macro_average(TASKS)
    assert (macro.low, macro.high) == (
        pytest.approx(0.65 - math.hypot(0.1, 0.04) / 2),
        pytest.approx(0.65 + math.hypot(0.1, 0.04) / 2),
    )


def test_a_task_without_an_error_leaves_the_average_without_one() -> None:
    average = macro_average([*TASKS, Estimate(0.1, None, None, None, 1, "")])
    assert (average.stderr, average.low, average.n) == (None, None, 501)


def test_a_group_without_tasks_is_refused() -> None:
    with pytest.raises(InvalidInput):
        macro_average([])
