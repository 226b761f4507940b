"""Summaries of load tests, against figures worked by hand and numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.serving.load import LoadConfig, Record, make_asks, spread, summarise


def test_a_level_by_hand() -> None:
    """Four requests in 0 to 4 s; one fails, one has a late first token, one slow gaps: one of four is good, 0.25 a second."""
    records = [
        Record(0.0, 1.0, 0.1, (0.05, 0.05), 10, 3),
        Record(0.0, 2.0, 1.5, (0.05,), 10, 2),
        Record(1.0, 4.0, 0.2, (0.3, 0.1), 10, 3),
        Record(1.0, 1.5, None, error="500"),
    ]
    summary = summarise(records, slo_ttft_ms=1000, slo_itl_ms=100)
    assert (summary.requests, summary.errors, summary.duration_s) == (4, 1, 4.0)
    assert (summary.requests_per_s, summary.tokens_per_s, summary.goodput_per_s, summary.good_share) == (0.75, 2.0, 0.25, 0.25)
    assert summary.ttft is not None
    assert (summary.ttft.p50_ms, summary.ttft.p99_ms) == pytest.approx((200.0, 1500.0))
    assert summary.first_error == "500"


@given(st.lists(st.floats(0.0001, 100), min_size=1, max_size=300))
def test_percentiles_are_those_of_numpy_by_inverted_cdf(values: list[float]) -> None:
    made = spread(values)
    assert made is not None
    expected = 1000 * np.quantile(values, [0.5, 0.95, 0.99], method="inverted_cdf")
    assert [made.p50_ms, made.p95_ms, made.p99_ms] == pytest.approx(expected)


def test_arrivals_are_poisson_by_rate_and_repeatable_by_seed() -> None:
    config = LoadConfig(rate=50.0, prompt_words=(4, 9), max_tokens=(1, 7))
    asks = make_asks(config, count=4000, seed=3)
    gaps = np.diff([ask.arrival_s for ask in asks])
    assert np.mean(gaps) == pytest.approx(0.02, rel=0.05)
    assert np.std(gaps) == pytest.approx(np.mean(gaps), rel=0.05)  # an exponential's deviation is its mean
    assert {len(ask.prompt.split()) for ask in asks} == {4, 9}
    assert make_asks(config, count=9, seed=3) == asks[:9]
    assert [ask.arrival_s for ask in make_asks(LoadConfig(arrivals=(0.0, 2.5)), count=2, seed=1)] == [0.0, 2.5]
