"""Arithmetic of costs: device time by day, idle time, and the forecast of a month."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

HOURS_PER_MONTH = 730.5  # 365.25 days / 12
LEVEL = 0.8
MIN_DAYS = 3


@dataclass(frozen=True)
class PriceForecast:
    """Dollars expected for a month, with the interval that holds the total of a further month of such days with
    probability `level`.

    All three are None where fewer than three full days are known. `past_error` is the relative error that this method,
    at the same day of the month before, would have made.
    """

    usd: float | None
    low: float | None
    high: float | None
    level: float
    days: int
    past_error: float | None = None


def usd_per_million_tokens(hour_usd: float, tokens_per_s: float) -> float | None:
    """Return the price of a million tokens of a device that generates without a pause; None at no tokens."""
    return hour_usd / (tokens_per_s * 3600) * 1e6 if tokens_per_s > 0 else None


def seconds_by_day(start: datetime, end: datetime) -> dict[date, float]:
    """Split an interval at midnight UTC."""
    parts: dict[date, float] = {}
    moment = start.astimezone(UTC)
    end = end.astimezone(UTC)
    while moment < end:
        midnight = datetime(moment.year, moment.month, moment.day, tzinfo=UTC) + timedelta(days=1)
        border = min(midnight, end)
        parts[moment.date()] = (border - moment).total_seconds()
        moment = border
    return parts


def forecast_month(spent: float, daily: Sequence[float], *, days_left: float) -> PriceForecast:
    """Return what was spent plus the mean of full days for each day left, with a prediction interval for independent
    normal days. Fewer than three full days tell no spread, so they forecast nothing.

    The total of R further days varies by sd x sqrt(R + R^2 / n): their own spread, and that of the mean of n days (Hahn
    and Meeker, Statistical Intervals, 1991, section 4.8). The interval never falls below what is spent.
    """
    count = len(daily)
    if count < MIN_DAYS:
        return PriceForecast(None, None, None, LEVEL, count)
    from backend.domain.statistics.estimates import student_quantile  # imports scipy, for this alone

    mean = math.fsum(daily) / count
    usd = spent + mean * days_left
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in daily) / (count - 1))
    half = student_quantile(LEVEL, df=count - 1) * sd * math.sqrt(days_left + days_left**2 / count)
    return PriceForecast(usd, max(spent, usd - half), usd + half, LEVEL, count)
