"""Policies played out on replicas of the test's own speed: shares, slow replicas, sessions, variants, counts that
return to zero; and the gateway's own view of replicas: silence pauses one, an answer brings it back.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import Counter
from dataclasses import replace

import pytest

from backend.domain.serving.deployment import RoutingPolicy
from backend.domain.serving.protocol import ChatMessage, GenerateRequest, Role, SamplingParams, TokenEvent
from backend.gateway.balancer import (
    MAX_FAILURES,
    REST_S,
    Balancer,
    HealthProbe,
    conversation_of,
    order_by_variant,
    weigh,
)
from backend.gateway.directory import ReplicaAddress
from backend.infra.openai_api.upstream import UpstreamClient
from backend.infra.replicas import ReplicaClient, ReplicaLost, ReplicaTimeouts
from tests.support.gateway_fixtures import scripted


def three(policy: str = RoutingPolicy.LEAST_OUTSTANDING) -> list[ReplicaAddress]:
    return [ReplicaAddress(f"r{number}", f"u{number}", "t", policy=policy) for number in range(3)]


def play(
    balancer: Balancer, replicas: list[ReplicaAddress], *, clients: int, num: int, seconds: dict[str, float]
) -> Counter[str]:
    """Let clients send one request after another, each of a random length, until `num` are sent; return how many each
    replica got.
    """
    lengths = random.Random(7)
    served: Counter[str] = Counter()
    ends: list[tuple[float, int, object]] = []
    now = 0.0
    for number in range(num):
        if len(ends) == clients:
            now, _, lease = heapq.heappop(ends)
            balancer.release(lease)  # type: ignore[arg-type]
        cost = lengths.uniform(50, 1000)
        chosen = balancer.acquire(replicas, cost=cost, affinity=f"user {number % 50}")
        assert chosen is not None
        served[chosen.replica.id] += 1
        heapq.heappush(ends, (now + cost * seconds[chosen.replica.id], number, chosen))
    while ends:
        balancer.release(heapq.heappop(ends)[2])  # type: ignore[arg-type]
    assert [balancer.outstanding(replica) for replica in replicas] == [0, 0, 0]
    return served


@pytest.mark.parametrize(
    "policy", [RoutingPolicy.LEAST_OUTSTANDING, RoutingPolicy.POWER_OF_TWO, RoutingPolicy.ROUND_ROBIN]
)
@pytest.mark.parametrize("clients", [1, 12], ids=["one client", "twelve clients"])
def test_three_equal_replicas_share_within_ten_percent(policy: str, clients: int) -> None:
    served = play(
        Balancer(rng=random.Random(3)), three(policy), clients=clients, num=900, seconds={"r0": 1, "r1": 1, "r2": 1}
    )
    assert all(abs(count - 300) <= 30 for count in served.values()), served


def test_a_replica_that_is_five_times_slower_gets_proportionally_less() -> None:
    served = play(Balancer(rng=random.Random(3)), three(), clients=12, num=2200, seconds={"r0": 1, "r1": 1, "r2": 5})
    assert 0.8 * 200 <= served["r2"] <= 1.25 * 200, "a fifth of each of the others: 1 of 11 requests"
    fair = play(
        Balancer(rng=random.Random(3)),
        three(RoutingPolicy.ROUND_ROBIN),
        clients=12,
        num=2200,
        seconds={"r0": 1, "r1": 1, "r2": 5},
    )
    assert fair["r2"] > 700


def test_a_session_stays_on_its_replica_until_that_one_is_much_busier() -> None:
    balancer, replicas = Balancer(rng=random.Random(0)), three(RoutingPolicy.SESSION_AFFINITY)
    homes = {name: balancer.acquire(replicas, cost=10, affinity=name).replica.id for name in ("a", "b", "c", "d")}  # type: ignore[union-attr]
    again = Balancer(rng=random.Random(1))
    for name, home in homes.items():
        lease = again.acquire(replicas, cost=10, affinity=name)
        assert lease is not None
        assert lease.replica.id == home
        again.release(lease)
    taken = [again.acquire(replicas, cost=10, affinity="a") for _ in range(4)]
    assert [lease.replica.id for lease in taken if lease][:3] == [homes["a"]] * 3
    assert taken[3] is not None
    assert taken[3].replica.id != homes["a"], "more than two requests ahead of the least busy one"


def test_a_lease_counts_once_however_often_it_is_released() -> None:
    balancer, replicas = Balancer(rng=random.Random(1)), three()[:1]
    first, second = balancer.acquire(replicas, cost=0.1), balancer.acquire(replicas, cost=0.2)
    assert first is not None
    assert second is not None
    for _ in range(3):
        balancer.release(first)
    assert balancer.outstanding(replicas[0]) == 1
    balancer.release(second)
    assert balancer.outstanding(replicas[0]) == 0


def test_the_balancer_pauses_a_failing_replica_and_retries_it_later() -> None:
    now = [100.0]
    balancer = Balancer(clock=lambda: now[0], rng=random.Random(0))
    bad, good = ReplicaAddress("bad", "u1", "t"), ReplicaAddress("good", "u2", "t")
    for _ in range(MAX_FAILURES):
        balancer.failed(bad)
    chosen = [balancer.acquire([bad, good]) for _ in range(4)]
    assert [lease.replica for lease in chosen if lease] == [good] * 4
    assert balancer.acquire([bad]) is None
    now[0] += REST_S
    retried = balancer.acquire([bad, good])
    assert retried is not None
    assert retried.replica == bad
    balancer.failed(bad)
    assert balancer.num_resting() == 1
    restarted = ReplicaAddress("bad", "u3", "t")
    assert balancer.acquire([restarted]) is not None


@pytest.mark.parametrize("percent", [0, 10, 50, 100])
def test_a_canary_gets_its_percentage_and_keeps_its_users_as_it_grows(percent: float) -> None:
    def users_of(share: float) -> set[str]:
        replicas = [ReplicaAddress("old", "u", "t"), ReplicaAddress("new", "u", "t", variant="c1", percent=share)]
        users = [f"user {number}" for number in range(2000)]
        return {
            user for user in users if order_by_variant(replicas, sticky=user, rng=random.Random(0))[0][0].id == "new"
        }

    assert abs(len(users_of(percent)) - 20 * percent) <= 60
    assert users_of(percent / 2) <= users_of(percent)
    anonymous = [ReplicaAddress("old", "u", "t"), ReplicaAddress("new", "u", "t", variant="c1", percent=percent)]
    rng = random.Random(5)
    drawn = sum(order_by_variant(anonymous, sticky="", rng=rng)[0][0].id == "new" for _ in range(2000))
    assert abs(drawn - 20 * percent) <= 80


def test_requests_are_weighed_by_prompt_and_answer() -> None:
    short = GenerateRequest(prompt="x" * 40, params=SamplingParams(max_tokens=10))
    long = GenerateRequest(prompt="x" * 4000, params=SamplingParams(max_tokens=1000))
    assert weigh(short) == pytest.approx(21)
    assert weigh(long) == pytest.approx(2001)
    talk = (ChatMessage(role=Role.USER, content="hello"), ChatMessage(role=Role.ASSISTANT, content="hi"))
    later = (*talk, ChatMessage(role=Role.USER, content="more"))
    assert conversation_of(GenerateRequest(messages=talk), "k") == conversation_of(GenerateRequest(messages=later), "k")


def test_a_replica_that_misses_two_probes_gets_no_requests_until_it_answers() -> None:
    balancer = Balancer()
    with scripted() as (_, url):
        here = ReplicaAddress("here", url, "t")
        gone = ReplicaAddress("gone", "http://127.0.0.2:9", "t")
        assert balancer.acquire([here, gone]) is not None

        async def probe(*, times: int) -> None:
            client = ReplicaClient()
            health = HealthProbe(balancer, client, UpstreamClient())
            for _ in range(times):
                await health.probe_all()
            await client.close()

        asyncio.run(probe(times=1))
        assert balancer.num_resting() == 0, "one missed answer is no proof"
        asyncio.run(probe(times=2))
        assert balancer.num_resting() == 1
        chosen = [balancer.acquire([here, gone]) for _ in range(4)]
        assert {lease.replica.id for lease in chosen if lease} == {"here"}
        balancer.recovered(gone)
        assert balancer.acquire([replace(gone)]) is not None


def test_open_requests_of_a_replica_that_freezes_are_taken_from_it_and_those_that_get_lines_stay() -> None:
    frozen, over = asyncio.Event(), asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A replica that sends a token, then empty lines until it freezes; it accepts connections ever after."""
        await reader.readuntil(b"\r\n\r\n")
        if frozen.is_set():
            await over.wait()
            writer.close()
            return
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        line = TokenEvent(text="a", token_ids=(1,), index=0).model_dump_json().encode() + b"\n"
        while not frozen.is_set():
            writer.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
            await writer.drain()
            line = b"\n"
            await asyncio.sleep(0.01)
        await over.wait()
        writer.close()

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        clock, later_s = loop.time, 0.0
        loop.time = lambda: clock() + later_s  # type: ignore[method-assign]
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        client = ReplicaClient(timeouts=ReplicaTimeouts(900.0, 900.0, 900.0))
        seen: list[str] = []

        async def ask() -> None:
            try:
                async for event in client.stream(url, token="t", request=GenerateRequest(prompt="x")):
                    seen.append(event.type)
            except ReplicaLost as error:
                seen.append(error.reason)

        async def let_all_run() -> None:
            for _ in range(100):
                await asyncio.sleep(0.002)

        task = asyncio.create_task(ask())
        while seen != ["token"]:
            await asyncio.sleep(0.02)
        later_s += 60
        await let_all_run()
        assert client.drop(url, silent_s=30) == 0, "empty lines are signs of life"
        frozen.set()
        await let_all_run()
        later_s += 60
        assert client.drop(url, silent_s=30) == 1
        await task
        assert seen == ["token", "timeout"]
        assert client.drop(url, silent_s=0.0) == 0, "nothing is open"
        waiting = asyncio.create_task(ask())  # before its first line, too
        await let_all_run()
        later_s += 60
        assert client.drop(url, silent_s=30) == 1
        await waiting
        assert seen[2:] == ["timeout"]
        await client.close()
        over.set()
        server.close()
        await let_all_run()

    asyncio.run(scene())
