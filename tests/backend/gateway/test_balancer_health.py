"""The gateway's own view of replicas: silence pauses one, an answer brings it back."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from backend.domain.serving.protocol import GenerateRequest, TokenEvent
from backend.gateway.balancer import Balancer, HealthProbe
from backend.gateway.directory import ReplicaAddress
from backend.infra.openai_api.upstream import UpstreamClient
from backend.infra.replicas import ReplicaClient, ReplicaLost, ReplicaTimeouts
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
