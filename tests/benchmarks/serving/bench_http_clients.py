"""CPU of an HTTP client for a short request and for a line of a stream, by library, against a replica that answers at
once.

    python -m tests.benchmarks.serving.bench_http_clients

Prints one line per library and round, in turns. Bounded: about a minute.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import aiohttp
import httpx2

from backend.infra.replicas import open_session
from tests.benchmarks.serving.bench_gateway import start

ROUNDS = 3
SHORT, LONG = (1, 1500, 16), (500, 64, 8)
"""Lines of an answer, requests, and how many are open at once."""
Client = Callable[[str, int, int, int], Awaitable[int]]


async def by_aiohttp(url: str, lines: int, requests: int, users: int) -> int:
    """Read answers; return how many lines they had."""
    turns = asyncio.Semaphore(users)
    async with open_session() as session:

        async def ask() -> int:
            count = 0
            async with turns, session.post(f"{url}/generate", json=body(lines)) as response:
                while await response.content.readline():
                    count += 1
            return count

        return sum(await asyncio.gather(*(ask() for _ in range(requests))))


async def by_httpx2(url: str, lines: int, requests: int, users: int) -> int:
    """Read answers; return how many lines they had."""
    turns = asyncio.Semaphore(users)
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(limits=limits, timeout=60, trust_env=False) as client:

        async def ask() -> int:
            async with turns, client.stream("POST", f"{url}/generate", json=body(lines)) as response:
                return len([line async for line in response.aiter_lines()])

        return sum(await asyncio.gather(*(ask() for _ in range(requests))))


def body(lines: int) -> dict[str, object]:
    """Return a request for this many tokens."""
    return {"params": {"max_tokens": lines}}


def main() -> None:
    """Measure the libraries in turns."""
    replica, url = start("replica")
    clients: dict[str, Client] = {f"aiohttp {aiohttp.__version__}": by_aiohttp, "httpx2": by_httpx2}
    for _ in range(ROUNDS):
        for name, client in clients.items():
            seconds, counts = [], []
            for level in (SHORT, LONG):
                began = time.process_time()
                counts.append(asyncio.run(client(url, *level)))  # type: ignore[arg-type]
                seconds.append(time.process_time() - began)
            request_ms, line_us = 1e3 * seconds[0] / SHORT[1], 1e6 * seconds[1] / counts[1]
            print(f"{name}: {request_ms:.2f} ms a short request, {line_us:.1f} us a line", flush=True)
    replica.terminate()


if __name__ == "__main__":
    main()
