"""Limits of keys: the demand of a request on them, and their counts: in this process, exact for one gateway; or in
Redis, shared by several, where one script checks every limit and counts the request in one step.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

import redis.asyncio
from redis.exceptions import RedisError

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


def _seconds_left(period: Period, *, now: float) -> int:
    """Return the seconds to the end of the UTC day or month."""
    return max(1, int(period_end(period, now=datetime.fromtimestamp(now, UTC)).timestamp() - now) + 1)


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
            return Refusal("budget", budget, used, _seconds_left(period, now=now), unit, period)
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


logger = logging.getLogger(__name__)
PREFIX = "roundhouse:limits:"
TIMEOUT_S = 1.0
REST_S = 5.0  # without a try after an error, so that no request waits for a server that is away

RESERVE = """
local d = cjson.decode(ARGV[1])
local now, second = d.now, math.floor(d.now)
local function window(key)
  local bins, total, list = redis.call('HGETALL', key), 0, {}
  for i = 1, #bins, 2 do
    local at = tonumber(bins[i])
    if at <= now - d.window then redis.call('HDEL', key, bins[i])
    else total = total + tonumber(bins[i + 1]); list[#list + 1] = {at, tonumber(bins[i + 1])} end
  end
  table.sort(list, function(a, b) return a[1] < b[1] end)
  return total, list
end
local function wait(list, excess)
  for _, bin in ipairs(list) do
    excess = excess - bin[2]
    if excess <= 0 then return math.max(1, math.floor(bin[1] + d.window - now) + 1) end
  end
  return d.window
end
for _, b in ipairs(d.budgets) do
  if redis.call('EXISTS', b.key) == 0 then return cjson.encode({seed = true}) end
end
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now - d.hold)
local open = redis.call('ZCARD', KEYS[3])
if d.concurrency and open >= d.concurrency then
  return cjson.encode({limit = 'concurrency', allowed = d.concurrency, used = open, wait = 1}) end
local used, list = window(KEYS[1])
local requests = used + 1
if d.requests and used + 1 > d.requests then
  local excess = used + 1 - d.requests
  return cjson.encode({limit = 'requests', allowed = d.requests, used = used, wait = wait(list, excess)}) end
used, list = window(KEYS[2])
if d.tokens_limit and used + d.tokens > d.tokens_limit then
  local excess = used + d.tokens - d.tokens_limit
  return cjson.encode({limit = 'tokens', allowed = d.tokens_limit, used = used, wait = wait(list, excess)}) end
for i, b in ipairs(d.budgets) do
  local spent = tonumber(redis.call('GET', b.key))
  if spent + b.amount > b.budget or spent >= b.budget then
    return cjson.encode({limit = 'budget', index = i, allowed = b.budget, used = spent, wait = b.left}) end
end
redis.call('HINCRBYFLOAT', KEYS[1], second, 1)
redis.call('HINCRBYFLOAT', KEYS[2], second, d.tokens)
redis.call('EXPIRE', KEYS[1], d.window * 2)
redis.call('EXPIRE', KEYS[2], d.window * 2)
redis.call('ZADD', KEYS[3], now, d.request)
redis.call('EXPIRE', KEYS[3], d.hold)
for _, b in ipairs(d.budgets) do redis.call('INCRBYFLOAT', b.key, b.amount) end
return cjson.encode({requests = requests, tokens = used + d.tokens})
"""


class SharedLimits:
    """Implements LimitStore over Redis. While Redis is away, each gateway counts for itself."""

    def __init__(self, url: str) -> None:
        self._redis = redis.asyncio.Redis.from_url(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S)
        self._script = self._redis.register_script(RESERVE)
        self._alone = MemoryLimits()
        self._resting_until = 0.0
        self._counted_alone: set[str] = set()

    async def reserve(self, demand: Demand, read_spent: ReadSpent) -> Refusal | Counted:
        """Count a request at its most, or return the refusal."""
        if time.monotonic() >= self._resting_until:
            try:
                return await self._reserve(demand, read_spent)
            except (RedisError, OSError) as error:
                self._rest(error)
        self._counted_alone.add(demand.request_id)
        return await self._alone.reserve(demand, read_spent)

    async def settle(self, demand: Demand, *, tokens: int, usd: float) -> None:
        """Replace the reservation by what the request used."""
        if demand.request_id in self._counted_alone:
            self._counted_alone.discard(demand.request_id)
            await self._alone.settle(demand, tokens=tokens, usd=usd)
            return
        _, tokens_key, open_key = _keys(demand)
        try:
            pipe = self._redis.pipeline(transaction=True)
            pipe.zrem(open_key, demand.request_id)
            # the next check drops a second past the window
            pipe.hincrbyfloat(tokens_key, str(int(demand.now)), tokens - demand.tokens)
            pipe.expire(tokens_key, WINDOW_S * 2)
            for unit, period, _ in demand.limits.budgets:
                change = tokens - demand.tokens if unit == "tokens" else usd - demand.usd
                pipe.incrbyfloat(_budget_key(demand, unit, period), change)
            await pipe.execute()
        except (RedisError, OSError) as error:
            self._rest(error)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def _reserve(self, demand: Demand, read_spent: ReadSpent) -> Refusal | Counted:
        answer = await self._ask(demand)
        if answer.get("seed"):
            for unit, period, _ in demand.limits.budgets:
                name = _budget_key(demand, unit, period)
                spent = await asyncio.to_thread(read_spent, unit, period)
                await self._redis.set(name, spent, nx=True, ex=_seconds_left(period, now=demand.now) + 24 * 3600)
            answer = await self._ask(demand)
        if "limit" not in answer:
            return Counted(float(answer["requests"]), float(answer["tokens"]))
        refusal = Refusal(answer["limit"], float(answer["allowed"]), float(answer["used"]), int(answer["wait"]))
        if "index" not in answer:
            return refusal
        unit, period, _ = demand.limits.budgets[int(answer["index"]) - 1]
        return replace(refusal, unit=unit, period=period)

    async def _ask(self, demand: Demand) -> dict[str, Any]:
        limits = demand.limits
        question = {
            "now": demand.now,
            "window": WINDOW_S,
            "hold": int(HOLD_S),
            "request": demand.request_id,
            "tokens": demand.tokens,
            "requests": limits.requests,
            "tokens_limit": limits.tokens,
            "concurrency": limits.concurrency,
            "budgets": [
                {
                    "key": _budget_key(demand, unit, period),
                    "budget": budget,
                    "amount": demand.tokens if unit == "tokens" else demand.usd,
                    "left": _seconds_left(period, now=demand.now),
                }
                for unit, period, budget in limits.budgets
            ],
        }
        given = {name: value for name, value in question.items() if value is not None}
        return dict(json.loads(await self._script(keys=list(_keys(demand)), args=[json.dumps(given)])))

    def _rest(self, error: Exception) -> None:
        logger.warning("Limits are counted by this gateway alone for %.0f s: %s", REST_S, error)
        self._resting_until = time.monotonic() + REST_S


def _keys(demand: Demand) -> tuple[str, str, str]:
    base = f"{PREFIX}{{{demand.key_id}}}"  # braces keep the keys of one account on one node of a cluster
    return f"{base}:requests", f"{base}:tokens", f"{base}:open"


def _budget_key(demand: Demand, unit: Unit, period: Period) -> str:
    return f"{PREFIX}{{{demand.key_id}}}:{demand.budget_name(unit, period)}"
