"""Limits counted in Redis, so that several gateways share them: one script checks every limit and counts the request in
one step.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import replace
from typing import Any

import redis.asyncio
from redis.exceptions import RedisError

from backend.domain.serving.key_limits import Period
from backend.gateway.limits.demand import (
    HOLD_S,
    WINDOW_S,
    Counted,
    Demand,
    ReadSpent,
    Refusal,
    Unit,
    seconds_left,
)
from backend.gateway.limits.memory import MemoryLimits

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
                await self._redis.set(name, spent, nx=True, ex=seconds_left(period, now=demand.now) + 24 * 3600)
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
                    "left": seconds_left(period, now=demand.now),
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
