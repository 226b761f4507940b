"""Shadow traffic: copies of requests answered a second time, compared, and never shown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from backend.domain.wording import percent

CRITICAL_95 = 1.959964


@dataclass(frozen=True)
class AnsweredTwice:
    """One request answered twice. `is_equal` compares the texts of greedy answers, and is None for sampled ones and
    where the copy failed.

    Times in milliseconds, as the gateway saw them; `error` is the code of a copy that failed, else empty.
    """

    is_equal: bool | None
    primary_tokens: int
    shadow_tokens: int
    primary_ttft_ms: float | None
    shadow_ttft_ms: float | None
    primary_total_ms: float
    shadow_total_ms: float
    error: str = ""


@dataclass(frozen=True)
class ShadowReport:
    """Copies compared. `low` and `high` hold the share of equal greedy answers with 95 % confidence (Wilson, without a
    correction for continuity); means of tokens and medians of milliseconds are over the copies that were answered.
    """

    requests: int
    errors: int
    greedy: int
    equal: int
    low: float | None
    high: float | None
    primary_tokens: float | None
    shadow_tokens: float | None
    primary_ttft_ms: float | None
    shadow_ttft_ms: float | None
    primary_total_ms: float | None
    shadow_total_ms: float | None

    def describe(self) -> str:
        """Say in one line how the copies compare."""
        if not self.requests:
            return "no request copied yet"
        parts = [f"{self.requests:,} copied", f"{self.errors:,} failed"]
        if self.greedy and self.low is not None and self.high is not None:
            share = f"{percent(self.equal / self.greedy)}, 95 % interval {100 * self.low:.0f} to {percent(self.high)}"
            parts.append(f"{self.equal:,} of {self.greedy:,} greedy answers equal ({share})")
        if self.primary_tokens is not None and self.shadow_tokens is not None:
            parts.append(f"{self.shadow_tokens:.0f} tokens an answer instead of {self.primary_tokens:.0f}")
        if self.primary_ttft_ms is not None and self.shadow_ttft_ms is not None:
            parts.append(f"first token {self.shadow_ttft_ms:,.0f} ms instead of {self.primary_ttft_ms:,.0f}")
        return " · ".join(parts)


def report_shadow(comparisons: Sequence[AnsweredTwice]) -> ShadowReport:
    """Return the report of comparisons.

    >>> report_shadow([Comparison(True, 5, 5, 10.0, 20.0, 30.0, 40.0)]).shadow_ttft_ms
    20.0
    """
    answered = [row for row in comparisons if not row.error]
    greedy = [row.is_equal for row in answered if row.is_equal is not None]
    equal = sum(greedy)
    low, high = _interval(equal, len(greedy)) if greedy else (None, None)

    def mean(values: Sequence[float]) -> float | None:
        return statistics.fmean(values) if values else None

    def median(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None

    return ShadowReport(
        requests=len(comparisons),
        errors=len(comparisons) - len(answered),
        greedy=len(greedy),
        equal=equal,
        low=low,
        high=high,
        primary_tokens=mean([row.primary_tokens for row in answered]),
        shadow_tokens=mean([row.shadow_tokens for row in answered]),
        primary_ttft_ms=median([row.primary_ttft_ms for row in answered]),
        shadow_ttft_ms=median([row.shadow_ttft_ms for row in answered]),
        primary_total_ms=median([row.primary_total_ms for row in answered]),
        shadow_total_ms=median([row.shadow_total_ms for row in answered]),
    )


def _interval(equal: int, number: int) -> tuple[float, float]:
    # imports scipy, which no command on endpoints needs at its start
    from backend.domain.statistics.estimates import wilson_interval

    return wilson_interval(equal / number, number, critical=CRITICAL_95)
