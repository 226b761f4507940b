"""The relay by itself, between scripted replicas and the rows that it writes: no HTTP in front of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, aclosing
from typing import Any

import pytest

from backend.domain.serving.protocol import FinishEvent, GenerateRequest, SamplingParams, TokenEvent
from backend.domain.serving.request_log import LOAD_TEST
from backend.gateway.directory import ReplicaAddress
from backend.gateway.errors import ApiError
from backend.gateway.metrics import GatewayMetrics
from backend.gateway.relay import Relay
from backend.gateway.request import ApiExchange, Identity, make_request_id
from backend.gateway.usage import UsageWriter
from backend.infra.openai_api.upstream import UpstreamClient
from backend.infra.replicas import ReplicaClient
from backend.services.serving.usage import UsageRow
from tests.support.gateway_fixtures import MemoryDirectory, ScriptedReplica, scripted

REQUEST = GenerateRequest(prompt="Once", params=SamplingParams(max_tokens=8, temperature=0))


class Scene:
    """A relay over two scripted replicas of the endpoint `m`."""

    def __init__(self, replicas: list[tuple[ScriptedReplica, str]]) -> None:
        self.replicas = [replica for replica, _ in replicas]
        addresses = [ReplicaAddress(id=f"r{n}", url=url, token="t") for n, (_, url) in enumerate(replicas)]
        self.directory = MemoryDirectory({"m": addresses})

    def run(self, work: Callable[[Relay], Coroutine[Any, Any, None]]) -> list[UsageRow]:
        """Let a relay work; return the rows that it wrote."""

        async def relay_and_close() -> None:
            client, upstreams, usage = ReplicaClient(), UpstreamClient(), UsageWriter(self.directory)
            relay = Relay(self.directory, client=client, upstreams=upstreams, metrics=GatewayMetrics(), usage=usage)
            try:
                await work(relay)
            finally:
                await usage.close()
                await client.close()
                await upstreams.close()

        asyncio.run(relay_and_close())
        return self.directory.usage


@pytest.fixture
def scene() -> Any:
    with ExitStack() as stack:
        yield Scene([stack.enter_context(scripted()) for _ in range(2)])


def exchange(endpoint: str = "m", **identity: Any) -> ApiExchange:
    return ApiExchange(Identity(make_request_id("cmpl"), endpoint, **identity))


async def read(relay: Relay, asked: ApiExchange, request: GenerateRequest = REQUEST) -> str:
    return "".join([event.text async for event in relay.generate(request, asked) if isinstance(event, TokenEvent)])


def test_an_answer_is_relayed_and_becomes_one_row(scene: Scene) -> None:
    asked = exchange(user="ada", job_id="job1")
    scene.directory.prices = {"r0": 3600.0, "r1": 3600.0}

    async def work(relay: Relay) -> None:
        events = [event async for event in relay.generate(REQUEST, asked)]
        assert [event.text for event in events if isinstance(event, TokenEvent)] == ["w0 ", "w1 ", "w2 "]
        assert isinstance(events[-1], FinishEvent)

    (row,) = scene.run(work)
    assert (row.id, row.endpoint, row.job_id, row.status) == (asked.id, "m", "job1", "finished")
    assert (row.prompt_tokens, row.completion_tokens, row.finish_reason) == (5, 3, "stop")
    assert (row.replica_id, row.variant) == (asked.replica and asked.replica.id, "stable")
    assert row.ttft_ms is not None
    assert 0 < row.ttft_ms <= row.total_ms
    assert sum(row.gaps.values()) == 2, "between three tokens"
    assert row.cost_usd == pytest.approx(row.device_s), "a dollar a second"


def test_without_a_price_there_is_no_cost_and_a_load_test_is_a_variant_of_its_own(scene: Scene) -> None:
    async def work(relay: Relay) -> None:
        await read(relay, exchange(is_synthetic=True))

    (row,) = scene.run(work)
    assert (row.cost_usd, row.variant) == (None, LOAD_TEST)


def test_a_replica_that_is_lost_before_its_first_token_is_replaced(scene: Scene) -> None:
    for replica in scene.replicas:
        replica.script = "break" if replica is scene.replicas[0] else "finish"
        replica.tokens = 0 if replica is scene.replicas[0] else 3

    async def work(relay: Relay) -> None:
        for _ in range(4):
            assert await read(relay, exchange()) == "w0 w1 w2 "

    rows = scene.run(work)
    assert [(row.replica_id, row.status) for row in rows] == [("r1", "finished")] * 4
    assert scene.replicas[1].seen == 4


def test_an_answer_that_breaks_off_continues_at_another_replica(scene: Scene) -> None:
    async def work(relay: Relay) -> None:
        text = ""
        async for event in relay.generate(REQUEST, exchange()):
            if isinstance(event, TokenEvent):
                text += event.text
                for replica in scene.replicas:
                    replica.script, replica.tokens = "finish", 5
        assert text == "w0 w1 w2 w3 w4 "

    scene.replicas[0].script = scene.replicas[1].script = "break"
    (row,) = scene.run(work)
    begun = [body["begun"] for replica in scene.replicas for body in replica.bodies if body.get("begun")]
    assert begun == [{"token_ids": [0, 1, 2], "characters": 9}]
    assert (row.status, row.completion_tokens) == ("finished", 5)


def test_what_a_replica_refuses_is_the_clients_error_and_is_stored(scene: Scene) -> None:
    for replica in scene.replicas:
        replica.script = "refuse:400:context_length_exceeded"

    async def work(relay: Relay) -> None:
        with pytest.raises(ApiError) as caught:
            await read(relay, exchange())
        assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")
        with pytest.raises(ApiError) as unknown:
            await read(relay, exchange("nothing"))
        assert unknown.value.status == 404

    rows = scene.run(work)
    assert [(row.endpoint, row.status, row.finish_reason) for row in rows] == [
        ("m", "refused", "context_length_exceeded"),
        ("nothing", "refused", "model_not_found"),
    ]
    assert sum(replica.seen for replica in scene.replicas) == 1, "the other would refuse it too"


def test_a_reader_that_leaves_counts_the_prompt_and_what_it_was_sent(scene: Scene) -> None:
    for replica in scene.replicas:
        replica.tokens, replica.delay_s = 50, 0.02

    async def work(relay: Relay) -> None:
        async with aclosing(relay.generate(REQUEST, exchange())) as events:
            async for event in events:
                if isinstance(event, TokenEvent) and event.index == 1:
                    break

    (row,) = scene.run(work)
    assert (row.status, row.prompt_tokens, row.completion_tokens, row.finish_reason) == ("aborted", 5, 2, None)
