"""Limits of keys, counted in this process and in a real Redis server: both stores refuse and admit the same
requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import redis

from backend.cli.processes import broker_binary
from backend.domain.serving.key_limits import KeyLimits
from backend.gateway import limits
from backend.gateway.limits import Counted, Demand, LimitStore, MemoryLimits, ReadSpent, Refusal, SharedLimits
from tests.support.gateway_fixtures import eventually

NOON = 1_795_780_800.0  # 2026-11-27 12:00 UTC
MakeStore = Callable[[], LimitStore]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    socket = tmp_path_factory.mktemp("v") / "v.sock"
    options = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no"]
    url = f"unix://{socket}"
    with (
        subprocess.Popen([str(broker_binary()), *options], stdout=subprocess.DEVNULL, cwd=socket.parent) as process,
        redis.Redis.from_url(url) as client,
    ):

        def answers() -> bool:
            with contextlib.suppress(redis.ConnectionError):  # the socket is there before the server listens on it
                return bool(client.ping())
            return False

        try:
            eventually(answers)
            yield url
        finally:
            process.terminate()


@pytest.fixture(params=["memory", "redis"])
def make_store(request: pytest.FixtureRequest) -> MakeStore:
    if request.param == "memory":
        return MemoryLimits
    url = request.getfixturevalue("server")
    with redis.Redis.from_url(url) as client:
        client.flushall()
    return lambda: SharedLimits(url)


def demand(
    request: str, limits: KeyLimits, *, tokens: int = 10, usd: float = 0.0, now: float = NOON, prices: str = ""
) -> Demand:
    return Demand(request_id=request, key_id="k", limits=limits, tokens=tokens, usd=usd, now=now, prices=prices)


async def reserve(store: LimitStore, demand: Demand, read_spent: ReadSpent) -> Refusal | None:
    """Return the refusal of a request, None for one that was counted."""
    counted = await store.reserve(demand, read_spent)
    return counted if isinstance(counted, Refusal) else None


def run(make_store: MakeStore, play: Callable[[LimitStore], Awaitable[Any]]) -> Any:
    async def played() -> Any:
        store = make_store()
        try:
            return await play(store)
        finally:
            await store.close()

    return asyncio.run(played())


def nothing_spent(_unit: str, _period: str) -> float:
    return 0.0


def test_the_request_after_the_limit_is_refused_until_the_first_is_a_minute_old(make_store: MakeStore) -> None:
    limits = KeyLimits(requests=3)

    async def play(store: LimitStore) -> list[Refusal | None]:
        times = [0.0, 10.0, 20.0, 30.0, 59.0, 61.0]
        return [await reserve(store, demand(f"r{at}", limits, now=NOON + at), nothing_spent) for at in times]

    first, second, third, refused, late, after = run(make_store, play)
    assert (first, second, third, after) == (None, None, None, None)
    assert refused == Refusal("requests", 3, 3, 31)
    assert late is not None
    assert late.retry_after_s == 2


def test_tokens_are_reserved_at_their_most_and_settled_to_what_was_used(make_store: MakeStore) -> None:
    limits = KeyLimits(tokens=1000)

    async def play(store: LimitStore) -> list[Refusal | None]:
        big = demand("big", limits, tokens=900)
        answers = [
            await reserve(store, big, nothing_spent),
            await reserve(store, demand("two", limits, tokens=200), nothing_spent),
        ]
        await store.settle(big, tokens=50, usd=0.0)
        answers.append(await reserve(store, demand("three", limits, tokens=950), nothing_spent))
        answers.append(await reserve(store, demand("four", limits, tokens=1), nothing_spent))
        return answers

    admitted, refused, fits, full = run(make_store, play)
    assert (admitted, fits) == (None, None)
    assert refused == Refusal("tokens", 1000, 900, 61)
    assert full == Refusal("tokens", 1000, 1000, 61)


def test_open_requests_are_counted_until_they_end(make_store: MakeStore) -> None:
    limits = KeyLimits(concurrency=2)

    async def play(store: LimitStore) -> list[Refusal | None]:
        first = demand("a", limits)
        answers = [await reserve(store, first, nothing_spent)]
        answers += [await reserve(store, demand(name, limits), nothing_spent) for name in "bc"]
        await store.settle(first, tokens=1, usd=0.0)
        return [*answers, await reserve(store, demand("d", limits), nothing_spent)]

    assert run(make_store, play) == [None, None, Refusal("concurrency", 2, 2, 1), None]


@pytest.mark.parametrize(
    ("unit", "limits"), [("tokens", KeyLimits(tokens_per_day=100)), ("usd", KeyLimits(usd_per_day=1.0))]
)
def test_a_budget_starts_from_stored_usage_and_ends_with_the_utc_day(
    make_store: MakeStore, unit: str, limits: KeyLimits
) -> None:
    scale = 1.0 if unit == "tokens" else 0.01

    def spent(_unit: str, _period: str) -> float:
        return 70 * scale

    async def play(store: LimitStore) -> list[Refusal | None]:
        first = demand("a", limits, tokens=25, usd=0.25)
        answers = [
            await reserve(store, first, spent),
            await reserve(store, demand("b", limits, tokens=10, usd=0.10), spent),
        ]
        await store.settle(first, tokens=5, usd=0.05)
        answers.append(await reserve(store, demand("c", limits, tokens=10, usd=0.10), spent))
        tomorrow = NOON + 12 * 3600
        answers.append(await reserve(store, demand("d", limits, tokens=90, usd=0.90, now=tomorrow), nothing_spent))
        return answers

    admitted, refused, fits, next_day = run(make_store, play)
    assert (admitted, fits, next_day) == (None, None, None)
    assert refused is not None
    assert (refused.limit, refused.unit, refused.period) == ("budget", unit, "day")
    assert refused.used == pytest.approx(95 * scale)
    assert refused.retry_after_s == 12 * 3600 + 1


def test_a_request_that_reads_its_usage_is_counted_however_often_prices_change_meanwhile(make_store: MakeStore) -> None:
    """Counters of earlier prices were dropped while it waited, and it failed."""
    limits = KeyLimits(usd_per_day=5.0, usd_per_month=5.0)
    is_reading, may_end = threading.Event(), threading.Event()

    def spent_slowly(_unit: str, period: str) -> float:
        if period == "month":
            is_reading.set()
            assert may_end.wait(60)
        return 0.0

    async def play(store: LimitStore) -> list[Refusal | None]:
        first = asyncio.create_task(reserve(store, demand("a", limits, usd=1.0, prices="first"), spent_slowly))
        await asyncio.to_thread(is_reading.wait, 60)
        for prices in ("second", "third", "fourth"):
            priced = demand(prices, limits, usd=1.0, prices=prices)
            assert await reserve(store, priced, nothing_spent) is None
            await store.settle(priced, tokens=10, usd=1.0)
        may_end.set()
        last = await reserve(store, demand("b", limits, usd=4.5, prices="fourth"), nothing_spent)
        return [await first, last]

    counted, refused = run(make_store, play)
    assert counted is None
    assert refused is not None, "the dollar of the fourth prices counts still"


def test_a_budget_of_dollars_starts_again_from_stored_usage_once_a_price_changes(make_store: MakeStore) -> None:
    """Requests of before the first price were free until the next day or month, whatever *Costs* said of them."""
    limits = KeyLimits(usd_per_day=1.0, tokens_per_day=1000)

    def spent_at_new_prices(unit: str, _period: str) -> float:
        return 1.5 if unit == "usd" else 0.0

    async def play(store: LimitStore) -> list[Refusal | None]:
        free = demand("a", limits)
        answers = [await reserve(store, free, nothing_spent)]
        priced = demand("b", limits, prices="new")
        answers.append(await reserve(store, priced, spent_at_new_prices))
        await store.settle(free, tokens=5, usd=0.0)
        return [*answers, await reserve(store, priced, nothing_spent)]

    assert run(make_store, play) == [None, *(Refusal("budget", 1.0, 1.5, 12 * 3600 + 1, "usd", "day"),) * 2]


def test_two_gateways_share_what_they_count_in_redis(server: str) -> None:
    async def play() -> tuple[Refusal | None, Refusal | None]:
        one, two = SharedLimits(server), SharedLimits(server)
        limits = KeyLimits(requests=1)
        first = Demand("x", "shared", limits, 1, 0.0, NOON)
        second = Demand("y", "shared", limits, 1, 0.0, NOON + 1)
        answers = await reserve(one, first, nothing_spent), await reserve(two, second, nothing_spent)
        await one.close()
        await two.close()
        return answers

    first, second = asyncio.run(play())
    assert first is None
    assert second == Refusal("requests", 1, 1, 60)


def test_without_redis_a_gateway_counts_for_itself_and_does_not_wait_for_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "REST_S", 3600.0)
    asked = 0

    async def knock(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A server that hangs: it accepts, and never answers."""
        nonlocal asked
        asked += 1
        await reader.read()
        writer.close()

    async def play() -> None:
        server = await asyncio.start_server(knock, "127.0.0.1", 0)
        store = SharedLimits(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
        limits = KeyLimits(requests=1)
        assert await reserve(store, demand("a", limits), nothing_spent) is None
        before = asked
        assert before > 0
        assert await reserve(store, demand("b", limits), nothing_spent) is not None
        assert asked == before
        await store.close()
        server.close()

    asyncio.run(play())


def test_a_counted_request_tells_what_the_key_has_used_in_the_last_minute(make_store: MakeStore) -> None:
    limits = KeyLimits(requests=5, tokens=1000)

    async def play(store: LimitStore) -> list[Counted | Refusal]:
        times = {"a": 0.0, "b": 10.0, "c": 61.0}
        return [
            await store.reserve(demand(name, limits, tokens=100, now=NOON + at), nothing_spent)
            for name, at in times.items()
        ]

    assert run(make_store, play) == [Counted(1, 100), Counted(2, 200), Counted(2, 200)]
