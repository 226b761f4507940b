"""Limits counted in this process: exact for one gateway, separate for each of several."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field

from backend.gateway.limits.demand import (
    HOLD_S,
    WINDOW_S,
    Counted,
    Demand,
    ReadSpent,
    Refusal,
    seconds_left,
)


@dataclass
class _Account:
    requests: dict[int, float] = field(default_factory=dict)  # second -> count
    tokens: dict[int, float] = field(default_factory=dict)
    open: dict[str, float] = field(default_factory=dict)  # request -> when it began
    spent: dict[str, float] = field(default_factory=dict)  # budget -> used and reserved


class MemoryLimits:
    """Implements LimitStore. Runs on one event loop, so a check and its count are one step."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = defaultdict(_Account)

    async def reserve(self, demand: Demand, read_spent: ReadSpent) -> Refusal | Counted:
        """Count a request at its most, or return the refusal."""
        account, limits, now = self._accounts[demand.key_id], demand.limits, demand.now
        names = {demand.budget_name(unit, period): (unit, period) for unit, period, _ in limits.budgets}
        while absent := names.keys() - account.spent.keys():  # other requests come and go while one is read
            name = min(absent)
            spent = await asyncio.to_thread(read_spent, *names[name])
            account.spent.setdefault(name, spent)
        if len(account.spent) > 2 * len(names):  # most are of earlier periods and prices
            account.spent = {name: account.spent[name] for name in names}
        refusal = _check(account, demand)
        if refusal is not None:
            return refusal
        second = int(now)
        account.requests[second] = account.requests.get(second, 0) + 1
        account.tokens[second] = account.tokens.get(second, 0) + demand.tokens
        account.open[demand.request_id] = now
        _spend(account, demand, tokens=demand.tokens, usd=demand.usd)
        return Counted(sum(account.requests.values()), sum(account.tokens.values()))

    async def settle(self, demand: Demand, *, tokens: int, usd: float) -> None:
        """Replace the reservation by what the request used."""
        account, second = self._accounts[demand.key_id], int(demand.now)
        account.open.pop(demand.request_id, None)
        if second in account.tokens:
            account.tokens[second] += tokens - demand.tokens
        _spend(account, demand, tokens=tokens - demand.tokens, usd=usd - demand.usd)

    async def close(self) -> None:
        """Hold no connection."""


def _check(account: _Account, demand: Demand) -> Refusal | None:
    limits, now = demand.limits, demand.now
    account.open = {request: began for request, began in account.open.items() if began > now - HOLD_S}
    if limits.concurrency is not None and len(account.open) >= limits.concurrency:
        return Refusal("concurrency", limits.concurrency, len(account.open), 1)
    for name, bins, limit, amount in (
        ("requests", account.requests, limits.requests, 1),
        ("tokens", account.tokens, limits.tokens, demand.tokens),
    ):
        for second in [second for second in bins if second <= now - WINDOW_S]:
            del bins[second]
        used = sum(bins.values())
        if limit is not None and used + amount > limit:
            return Refusal(name, limit, used, _wait(bins, used + amount - limit, now))  # type: ignore[arg-type]
    for unit, period, budget in limits.budgets:
        used = account.spent[demand.budget_name(unit, period)]
        if used + (demand.tokens if unit == "tokens" else demand.usd) > budget or used >= budget:
            return Refusal("budget", budget, used, seconds_left(period, now=now), unit, period)
    return None


def _wait(bins: dict[int, float], excess: float, now: float) -> int:
    """Return the seconds until as much as `excess` has left the window."""
    for second in sorted(bins):
        excess -= bins[second]
        if excess <= 0:
            return max(1, int(second + WINDOW_S - now) + 1)
    return WINDOW_S


def _spend(account: _Account, demand: Demand, *, tokens: float, usd: float) -> None:
    for unit, period, _ in demand.limits.budgets:
        if (name := demand.budget_name(unit, period)) in account.spent:
            account.spent[name] += tokens if unit == "tokens" else usd
