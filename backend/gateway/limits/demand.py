"""Demands of requests on the limits of their keys, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Protocol

from backend.domain.serving.key_limits import KeyLimits, Period, period_end, period_start

WINDOW_S = 60
HOLD_S = 3600.0  # a request that a lost gateway never settled stops counting after this time
Unit = Literal["tokens", "usd"]
LimitName = Literal["requests", "tokens", "concurrency", "budget"]
ReadSpent = Callable[[Unit, Period], float]
"""Reads the use of a key in a period from the stored usage. May block; called once per period, unit and store."""


@dataclass(frozen=True)
class Demand:
    """One request: the tokens it may use at most (prompt and completion) and what these may cost. `prices` names
    the current prices.
    """

    request_id: str
    key_id: str
    limits: KeyLimits
    tokens: int
    usd: float
    now: float  # seconds since the epoch
    prices: str = ""

    def budget_name(self, unit: Unit, period: Period) -> str:
        """Return the name of a budget's counter, such as `tokens:day:2026-11-27`. One of dollars ends with the prices:
        after a change it starts from the stored usage, which counts at them.
        """
        start = period_start(period, now=datetime.fromtimestamp(self.now, UTC))
        return f"{unit}:{period}:{start:%Y-%m-%d}" + (f":{self.prices}" if unit == "usd" else "")


@dataclass(frozen=True)
class Refusal:
    """The limit that a request would pass, what is left of it, and the seconds after which room may be there."""

    limit: LimitName
    allowed: float
    used: float
    retry_after_s: int
    unit: Unit = "tokens"
    period: Period | None = None


@dataclass(frozen=True)
class Counted:
    """Requests and tokens of a key in the last minute, a new request at its most included."""

    requests: float
    tokens: float


class LimitStore(Protocol):
    """Counts of every key. `reserve` checks all limits and counts the request at its most, or says why not."""

    async def reserve(self, demand: Demand, read_spent: ReadSpent) -> Refusal | Counted:
        """Count a request at its most, or return the refusal."""

    async def settle(self, demand: Demand, *, tokens: int, usd: float) -> None:
        """Replace the reservation by what the request used, and end its place among the open requests."""

    async def close(self) -> None:
        """Free connections."""


def seconds_left(period: Period, *, now: float) -> int:
    """Return the seconds to the end of the UTC day or month."""
    return max(1, int(period_end(period, now=datetime.fromtimestamp(now, UTC)).timestamp() - now) + 1)
