"""Arithmetic of costs, against figures worked by hand."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.estimates.prices import DevicePrices, parse_prices
from backend.domain.serving.costs import forecast_month, seconds_by_day
from backend.domain.serving.latency import GROWTH, add_counts, bucket_of, decode_rate, percentile_s


def test_device_time_is_split_at_midnight_utc() -> None:
    start, end = datetime(2026, 11, 26, 23, 0, tzinfo=UTC), datetime(2026, 11, 28, 0, 30, tzinfo=UTC)
    assert seconds_by_day(start, end) == {
        date(2026, 11, 26): 3600.0,
        date(2026, 11, 27): 86_400.0,
        date(2026, 11, 28): 1800.0,
    }


def test_a_forecast_by_hand() -> None:
    """Days of 8, 10 and 12 dollars: mean 10, sd 2; four days left; t(0.9, 2) = 1.88562; half = 1.88562 x 2 x sqrt(4 +
    16 / 3) = 11.521.
    """
    forecast = forecast_month(100.0, [8.0, 10.0, 12.0], days_left=4.0)
    assert forecast.usd == pytest.approx(140.0)
    assert forecast.high == pytest.approx(151.521, abs=0.001)
    assert forecast.low == pytest.approx(128.479, abs=0.001)


def test_fewer_than_three_full_days_forecast_nothing_and_none_falls_below_what_is_spent() -> None:
    """What was spent on the first day was shown as the forecast of its month."""
    for days in ([], [1.0], [1.0, 3.0]):
        early = forecast_month(5.0, days, days_left=2.0)
        assert (early.usd, early.low, early.high, early.days) == (None, None, None, len(days))
    assert forecast_month(5.0, [0.0, 0.0, 9.0], days_left=1.0).low == 5.0


def test_prices_are_those_of_the_longest_part_of_a_name_then_of_the_kind() -> None:
    prices = DevicePrices(default=1.0, named=parse_prices("H100=2.5, H100 NVL=3, cpu=0.04"))
    assert prices.hour_usd("NVIDIA H100 80GB HBM3", "gpu") == 2.5
    assert prices.hour_usd("NVIDIA H100 NVL", "gpu") == 3.0
    assert prices.hour_usd("Xeon, 2 cores", "cpu") == 0.04
    assert prices.hour_usd("NVIDIA L4", "gpu") == 1.0
    assert DevicePrices().hour_usd("NVIDIA L4", "gpu") is None
    assert hash(prices) == hash(DevicePrices(default=1.0))  # caches of a context need its hash
    with pytest.raises(ValueError, match="H100"):
        parse_prices("H100")


@given(st.lists(st.floats(0.0002, 300.0), min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_percentile_of_buckets_is_within_a_bucket_of_the_true_one(values: list[float], quantile: float) -> None:
    counts = add_counts({bucket_of(value): 1} for value in values)
    true = sorted(values)[max(1, -(-int(quantile * 100) * len(values) // 100)) - 1]
    estimate = percentile_s(counts, quantile)
    assert estimate is not None
    assert 1 / GROWTH < estimate / true < GROWTH


def test_counts_add_up_in_any_split() -> None:
    parts = [{3: 2}, {3: 1, 7: 4}]
    assert add_counts(parts) == add_counts(reversed(parts)) == {3: 3, 7: 4}


@pytest.mark.parametrize(
    ("num_tokens", "seconds", "rate"),
    [
        (50, 2.0, 25.0),
        (0, 2.0, None),
        (-1, 2.0, None),
        (3, 0.0099, None),
        (400, 0.03, None),
        (300, 0.03, 10_000.0),
        (4, 0.0, None),
    ],
)
def test_tokens_that_arrive_together_have_no_rate(num_tokens: int, seconds: float, rate: float | None) -> None:
    assert decode_rate(num_tokens, seconds) == rate
