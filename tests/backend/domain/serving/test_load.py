"""Summaries of load tests, against figures worked by hand and numpy."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from backend.domain.serving.load import (
    LevelRun,
    LoadConfig,
    PlannedRequest,
    RequestTiming,
    iterate_asks,
    overhead,
    spread,
    summarise_load,
)


def test_a_level_by_hand() -> None:
    """Four requests in 0 to 4 s; one fails, one has a late first token, one slow gaps: one of four is good, 0.25 a
    second.
    """
    records = [
        RequestTiming(0.0, 1.0, 0.1, (0.05, 0.05), 10, 3),
        RequestTiming(0.0, 2.0, 1.5, (0.05,), 10, 2),
        RequestTiming(1.0, 4.0, 0.2, (0.3, 0.1), 10, 3),
        RequestTiming(1.0, 1.5, None, error="500"),
    ]
    summary = summarise_load([LevelRun(tuple(records), 0.0, 4.0)], slo_ttft_ms=1000, slo_itl_ms=100)
    assert (summary.requests, summary.errors, summary.duration_s) == (4, 1, 4.0)
    assert (summary.requests_per_s, summary.tokens_per_s, summary.goodput_per_s, summary.good_share) == (
        0.75,
        2.0,
        0.25,
        0.25,
    )
    assert summary.ttft is not None
    assert (summary.ttft.p50_ms, summary.ttft.p99_ms) == pytest.approx((200.0, 1500.0))
    assert summary.first_error == "500"


@given(st.lists(st.floats(0.0001, 100), min_size=1, max_size=300))
def test_percentiles_are_those_of_numpy_by_inverted_cdf(values: list[float]) -> None:
    made = spread(values)
    assert made is not None
    expected = 1000 * np.quantile(values, [0.5, 0.95, 0.99], method="inverted_cdf")
    assert [made.p50_ms, made.p95_ms, made.p99_ms] == pytest.approx(expected)


def first_asks(config: LoadConfig, *, count: int, phase: int = 0) -> list[PlannedRequest]:
    return list(islice(iterate_asks(config, phase=phase), count))


def test_arrivals_are_poisson_by_rate_and_repeatable_by_seed() -> None:
    config = LoadConfig(rate=50.0, prompt_words=(4, 9), max_tokens=(1, 7))
    asks = first_asks(config, count=4000)
    gaps = np.diff([ask.arrival_s for ask in asks])
    assert np.mean(gaps) == pytest.approx(0.02, rel=0.05)
    assert np.std(gaps) == pytest.approx(np.mean(gaps), rel=0.05)  # an exponential's deviation is its mean
    assert {len(ask.prompt.split()) for ask in asks} == {4, 9}
    assert first_asks(config, count=9) == asks[:9]
    assert [ask.arrival_s for ask in first_asks(LoadConfig(arrivals=(0.0, 2.5)), count=9)] == [0.0, 2.5]


def test_phases_have_the_same_lengths_and_arrivals_but_share_no_prompt() -> None:
    """A replica keeps prompts that it has read: the second target would answer them from its cache, and look faster."""
    config = LoadConfig(rate=5.0, prompt_words=(9, 30))
    first, second = first_asks(config, count=50), first_asks(config, count=50, phase=1)
    assert [(len(a.prompt.split()), a.max_tokens, a.arrival_s) for a in first] == [
        (len(a.prompt.split()), a.max_tokens, a.arrival_s) for a in second
    ]
    assert not {ask.prompt for ask in first} & {ask.prompt for ask in second}


def test_rates_are_of_the_steady_time_without_warmup_and_without_the_end_in_which_users_run_out() -> None:
    """Two users, a request a second each, 10 tokens each: 2 requests and 20 tokens a second, although one goes on alone
    at the end.
    """
    gaps = (0.1,) * 9
    records = [
        RequestTiming(float(n), n + 1.0, 0.05, gaps, 5, 10, is_warmup=n == 0) for n in range(10) for _ in range(2)
    ]
    records.append(RequestTiming(10.0, 10.99, 0.05, gaps, 5, 10))
    summary = summarise_load([LevelRun(tuple(records), 1.0, 10.0)], slo_ttft_ms=100, slo_itl_ms=50)
    assert summary.is_steady
    assert (summary.requests, summary.duration_s) == (19, 9.0)
    assert summary.requests_per_s == pytest.approx(2.0)
    assert summary.tokens_per_s == pytest.approx(20.0)
    assert summary.goodput_per_s == 0.0  # 100 ms between tokens
    assert not summarise_load([LevelRun(tuple(records[:4]), 0.0, 1.0)], slo_ttft_ms=1, slo_itl_ms=1).is_steady
    assert sum(point.requests_per_s for point in summary.points) == pytest.approx(21, rel=0.05)


def test_the_overhead_is_the_difference_of_medians_with_its_interval_or_without_one_for_few_requests() -> None:
    rng = np.random.default_rng(0)

    def run(added: float, count: int) -> LevelRun:
        return LevelRun(
            tuple(RequestTiming(0.0, 1.0 + added, 0.1 + added + rng.normal(0, 0.01)) for _ in range(count)), 0.0, 9.0
        )

    made = overhead([run(0.005, 400)], [run(0.0, 400)])
    low, high = made["ttft_interval_ms"]
    assert low < 5.0 < high
    assert high - low < 6
    assert made["itl_p50_ms"] is None
    assert overhead([run(0.005, 3)], [run(0.0, 3)])["ttft_interval_ms"] is None


@pytest.mark.parametrize(
    "values",
    [{"rate": 1.0, "arrivals": (0.0,)}, {"rate": 5000.0, "duration_s": 3600.0}, {"users": (0,)}, {"arrivals": (-1.0,)}],
    ids=["two arrivals", "too many", "no user", "before the start"],
)
def test_a_config_that_makes_no_load_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LoadConfig.model_validate(values)
