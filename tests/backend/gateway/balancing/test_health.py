"""The gateway's own view of replicas: silence pauses one, an answer brings it back."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from backend.domain.serving.protocol import GenerateRequest, TokenEvent
from backend.gateway.balancing.balancer import Balancer
from backend.gateway.balancing.health import HealthProbe
from backend.gateway.directory import ReplicaAddress
from backend.infra.openai_api.upstream import UpstreamClient
from backend.infra.replicas import ReplicaClient, ReplicaLost
from tests.support.gateway_fixtures import scripted


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
        """A replica that sends a token, then a line a second until it freezes; it accepts connections ever after."""
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
            await asyncio.sleep(0.1)
        await over.wait()
        writer.close()

    async def scene() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        client = ReplicaClient()
        seen: list[str] = []

        async def ask() -> None:
            try:
                async for event in client.stream(url, token="t", request=GenerateRequest(prompt="x")):
                    seen.append(event.type)
            except ReplicaLost as error:
                seen.append(error.reason)

        task = asyncio.create_task(ask())
        while seen != ["token"]:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        assert client.drop(url, silent_s=0.25) == 0, "empty lines are signs of life"
        frozen.set()
        await asyncio.sleep(0.4)
        assert client.drop(url, silent_s=0.25) == 1
        await asyncio.wait_for(task, 5)
        assert seen == ["token", "timeout"]
        assert client.drop(url, silent_s=0.0) == 0, "nothing is open"
        waiting = asyncio.create_task(ask())  # before its first line, too
        await asyncio.sleep(0.4)
        assert client.drop(url, silent_s=0.25) == 1
        await asyncio.wait_for(waiting, 5)
        assert seen[2:] == ["timeout"]
        await client.close()
        over.set()
        server.close()
        await asyncio.sleep(0.1)

    asyncio.run(scene())
