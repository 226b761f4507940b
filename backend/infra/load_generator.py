"""Sends the requests of a load test over HTTP and times their streams: closed loop or open loop, on one event loop."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp

from backend.domain.serving.load import Ask, LoadConfig, Record, make_asks

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class LoadTarget:
    """The address of a gateway (an OpenAI-compatible API) or of a replica, and its secret."""

    kind: Literal["gateway", "replica"]
    url: str
    model: str
    token: str = ""


def run_level(config: LoadConfig, targets: Sequence[LoadTarget], *, users: int, on_done: Callable[[], None] | None = None) -> list[Record]:
    """Send a level's warm-up and requests, to several targets in turn, and return the records of the requests."""
    return asyncio.run(_run_level(config, targets, users=users, on_done=on_done or (lambda: None)))


async def _run_level(config: LoadConfig, targets: Sequence[LoadTarget], *, users: int, on_done: Callable[[], None]) -> list[Record]:
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=config.timeout_s)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=CHUNK_BYTES, trust_env=False) as session:
        warm = make_asks(config.model_copy(update={"rate": None, "arrivals": ()}), count=config.warmup, seed=config.seed + 1)
        await _closed(session, targets, warm, users=users, on_done=lambda: None)
        count = len(config.arrivals) or config.requests
        asks = make_asks(config, count=count, seed=config.seed)
        if config.is_open:
            return await _open(session, targets, asks, on_done=on_done)
        return await _closed(session, targets, asks, users=users, on_done=on_done)


async def _closed(
    session: aiohttp.ClientSession, targets: Sequence[LoadTarget], asks: Sequence[Ask], *, users: int, on_done: Callable[[], None]
) -> list[Record]:
    waiting = iter(enumerate(asks))
    records: list[Record] = []

    async def user() -> None:
        for number, ask in waiting:
            records.append(await _send(session, targets[number % len(targets)], ask))
            on_done()

    await asyncio.gather(*(user() for _ in range(users)))
    return records


async def _open(
    session: aiohttp.ClientSession, targets: Sequence[LoadTarget], asks: Sequence[Ask], *, on_done: Callable[[], None]
) -> list[Record]:
    began = time.perf_counter()

    async def arrive(number: int, ask: Ask) -> Record:
        await asyncio.sleep(max(0.0, began + ask.arrival_s - time.perf_counter()))
        record = await _send(session, targets[number % len(targets)], ask)
        on_done()
        return record

    return list(await asyncio.gather(*(arrive(number, ask) for number, ask in enumerate(asks))))


async def _send(session: aiohttp.ClientSession, target: LoadTarget, ask: Ask) -> Record:
    start = time.perf_counter()
    stream = _Stream(target.kind)
    headers = {"Authorization": f"Bearer {target.token}"} if target.token else {}
    path = "/v1/completions" if target.kind == "gateway" else "/generate"
    try:
        async with session.post(f"{target.url}{path}", json=_body(target, ask), headers=headers) as response:
            if response.status != 200:
                text = (await response.content.read(500)).decode(errors="replace")
                return Record(start, time.perf_counter(), None, error=f"{response.status}: {text}"[:300])
            async for line in response.content:
                stream.read(line, at=time.perf_counter())
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        return Record(start, time.perf_counter(), None, error=f"{type(error).__name__}: {error}"[:300])
    problem = stream.error or ("" if stream.has_ended else "The stream broke off.")
    times = stream.times
    return Record(
        start_s=start,
        end_s=time.perf_counter(),
        ttft_s=times[0] - start if times else None,
        gaps_s=tuple(after - before for before, after in itertools.pairwise(times)),
        prompt_tokens=stream.prompt_tokens,
        completion_tokens=stream.completion_tokens,
        error=problem,
    )


def _body(target: LoadTarget, ask: Ask) -> dict[str, Any]:
    if target.kind == "gateway":
        body = {"model": target.model, "prompt": ask.prompt, "max_tokens": ask.max_tokens, "temperature": 0}
        return body | {"stream": True, "stream_options": {"include_usage": True}}
    return {"prompt": ask.prompt, "params": {"max_tokens": ask.max_tokens, "temperature": 0}, "stream": True}


class _Stream:
    """Reads the lines of a stream: server-sent events of a gateway, or JSON lines of a replica."""

    def __init__(self, kind: str) -> None:
        self.is_gateway = kind == "gateway"
        self.times: list[float] = []
        self.prompt_tokens = self.completion_tokens = 0
        self.has_ended = False
        self.error = ""

    def read(self, line: bytes, *, at: float) -> None:
        text = line.strip()
        if self.is_gateway:
            text = text[5:].strip() if text.startswith(b"data:") else b""
            if text == b"[DONE]":
                self.has_ended = True
                return
        if not text:
            return
        event = json.loads(text)
        if "error" in event or event.get("type") == "error":
            self.error = str(event.get("error") or event.get("message"))[:300]
            return
        if event.get("type") == "token" or (self.is_gateway and _has_text(event)):
            self.times.append(at)
        if usage := event.get("usage"):
            self.prompt_tokens, self.completion_tokens = int(usage["prompt_tokens"]), int(usage["completion_tokens"])
        self.has_ended = self.has_ended or event.get("type") == "finish"


def _has_text(event: dict[str, Any]) -> bool:
    """Return whether a chunk carries tokens: any but the one that only states why the answer ended."""
    return any(choice.get("text") or not choice.get("finish_reason") for choice in event.get("choices") or ())
