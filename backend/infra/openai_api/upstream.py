"""HTTP to models on other servers with the OpenAI API: one request as the same stream of events that a replica sends.

Redirects are not followed, proxies of the environment are not used, and names that resolve to a link-local or metadata
address are not called. Closing a stream early closes its connection.
"""

from __future__ import annotations

import asyncio
import math
import socket
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.http_exceptions import HttpProcessingError

from backend.domain.json_values import JsonObject
from backend.domain.openai_servers import read_problem, read_retry_after
from backend.domain.serving.protocol import (
    ANSWER_LIMIT,
    Accepted,
    GenerateRequest,
    GenerationErrorEvent,
    GenerationEvent,
    Task,
)
from backend.domain.serving.upstream import Upstream
from backend.domain.wording import format_bytes
from backend.errors import Unavailable
from backend.infra.keys import read_key
from backend.infra.openai_api.addresses import refuse_address
from backend.infra.openai_api.bodies import to_call
from backend.infra.openai_api.events import Reader, parse_json, read_embeddings, read_scores, read_tokens
from backend.infra.openai_api.streams import DONE, StreamClient, next_data
from backend.infra.replicas import ReplicaLost, ReplicaRefused

CONNECT_S = 5.0
MAX_ANSWER_BYTES = 64 * 2**20
MAX_ERROR_BYTES = 64 * 2**10
PROBED_S = 10.0
MAX_PAUSE_S = 3600.0
UPSTREAM_LIMIT = "upstream_limit"
"""Error code: the other server has reached a limit of its own (429)."""
UNSUPPORTED = "unsupported_parameter"
MALFORMED = (ValueError, KeyError, TypeError, AttributeError, OverflowError)


class UpstreamClient:
    """HTTP client of any number of other servers with one connection pool. Belongs to one event loop."""

    def __init__(self) -> None:
        self._client = StreamClient(GuardedResolver())
        self._open: Counter[tuple[str, str]] = Counter()
        self._probed: dict[tuple[str, str], tuple[float, bool]] = {}

    async def stream(
        self,
        upstream: Upstream,
        *,
        name: str,
        request: GenerateRequest,
        on_accept: Callable[[Accepted], None] | None = None,
    ) -> AsyncGenerator[GenerationEvent, None]:
        """Yield the events of one generation, as `ReplicaClient.stream` does; `name` is what messages call the server.

        `on_accept` gets an estimate of the prompt's tokens, since only the end of an answer tells their number.
        """
        slot = (upstream.url, upstream.model)
        if self._open[slot] >= upstream.max_requests:
            raise ReplicaRefused(
                f"{name} answers {upstream.max_requests} requests already.", status=429, code="queue_full"
            )
        self._open[slot] += 1
        clock = Clock(upstream)
        events = self._call(upstream, name, request, clock, on_accept)
        try:
            async for event in events:
                yield event
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise ReplicaLost(f"{name} can't be reached ({type(error).__name__}).", reason="connection") from error
        except TimeoutError as error:
            if not clock.is_over:
                raise ReplicaLost(f"{name} did not answer in time.", reason="timeout") from error
            yield GenerationErrorEvent(
                message=f"The answer took longer than {upstream.answer_limit_s:g} s.", code=ANSWER_LIMIT
            )
        except (aiohttp.ClientError, HttpProcessingError, OSError) as error:
            raise ReplicaLost(f"{name} broke off ({type(error).__name__}).", reason="broken") from error
        finally:
            self._open[slot] -= 1
            await events.aclose()

    async def probe(self, upstream: Upstream, *, timeout_s: float) -> bool:
        """Return whether a server answered within the last ten seconds, or does now. A request that can't be billed."""
        slot, now = (upstream.url, upstream.model), time.monotonic()
        asked_at, answered = self._probed.get(slot, (-math.inf, False))
        if answered and now - asked_at < PROBED_S:
            return True
        try:
            answered = await self._client.is_there(f"{upstream.url}/models", key=_key(upstream), timeout_s=timeout_s)
        except (aiohttp.ClientError, TimeoutError, OSError, Unavailable):
            answered = False
        self._probed[slot] = (now, answered)
        return answered

    async def close(self) -> None:
        """Close the connection pool."""
        await self._client.close()

    async def _call(
        self,
        upstream: Upstream,
        name: str,
        request: GenerateRequest,
        clock: Clock,
        on_accept: Callable[[Accepted], None] | None,
    ) -> AsyncGenerator[GenerationEvent, None]:
        path, body = to_call(request, model=upstream.model)
        url = upstream.url.removesuffix("/v1") if path == "tokenize" else upstream.url
        try:
            key = _key(upstream)
        except Unavailable as error:
            raise ReplicaLost(f"The key for {name} can't be read here.", reason="key") from error
        async with clock.limit(upstream.first_token_s):
            response = await self._client.post(f"{url}/{path}", key=key, body=body, connect_s=CONNECT_S)
        async with response:
            if response.status != 200:
                async with asyncio.timeout(CONNECT_S):
                    problem = await response.content.read(MAX_ERROR_BYTES)
                raise _refusal(response, problem, name=name, upstream=upstream, task=request.task)
            if on_accept is not None:
                on_accept(Accepted(request.estimate_prompt()))
            if request.task is not Task.GENERATE or request.echo or response.content_type == "application/json":
                async with clock.limit(upstream.answer_limit_s):
                    answer = await _read_whole(response, name)
                for event in _whole(answer, request, name):
                    yield event
                return
            async for event in _read_stream(response, upstream, Reader(request), clock, name):
                yield event


class Clock:
    """The time that an answer may take. It limits single waits, since a limit around a whole stream would end its
    reader's own waits.
    """

    def __init__(self, upstream: Upstream) -> None:
        self._ends = time.monotonic() + upstream.answer_limit_s

    @property
    def is_over(self) -> bool:
        """Return whether the answer's time has passed."""
        return time.monotonic() >= self._ends

    def limit(self, seconds: float) -> asyncio.Timeout:
        """Return a limit of that many seconds, or what is left."""
        return asyncio.timeout(min(seconds, self._ends - time.monotonic()))


class GuardedResolver(AbstractResolver):
    """Resolves names, and refuses those of addresses that are never called, also where a name's changes later."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a host. Raises OSError."""
        addresses = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        results: list[ResolveResult] = []
        for kind, _, protocol, _, address in addresses:
            refuse_address(str(address[0]))
            results.append(
                ResolveResult(
                    hostname=host,
                    host=str(address[0]),
                    port=int(address[1]),
                    family=kind,
                    proto=protocol,
                    flags=socket.AI_NUMERICHOST,
                )
            )
        return results

    async def close(self) -> None:
        """Do nothing: there is nothing to release."""


async def _read_stream(
    response: aiohttp.ClientResponse, upstream: Upstream, reader: Reader, clock: Clock, name: str
) -> AsyncGenerator[GenerationEvent, None]:
    """Yield the events of server-sent events. Comments keep a connection alive and count as nothing."""
    limit_s = upstream.first_token_s
    lines = response.content
    while True:
        try:
            async with clock.limit(limit_s):
                data = await next_data(lines)
        except (ValueError, HttpProcessingError) as error:
            raise ReplicaLost(f"{name} sent a line that is too long.", reason="protocol") from error
        if data is None or data == DONE:
            if not reader.is_complete:
                raise _incomplete(reader, name, is_closed=data is not None)
            yield reader.finish()
            return
        for event in _parse(data, reader, name):
            limit_s = upstream.between_tokens_s
            yield event


def _parse(data: bytes, reader: Reader, name: str) -> list[GenerationEvent]:
    try:
        chunk = parse_json(data)
        if isinstance(chunk, dict) and chunk.get("error"):
            raise ReplicaLost(f"{name} failed: {read_problem(chunk).message}", reason="failed")
        return list(reader.read(chunk))
    except MALFORMED as error:
        raise ReplicaLost(f"{name} sent an event that is not part of an answer.", reason="protocol") from error


async def _read_whole(response: aiohttp.ClientResponse, name: str) -> dict[str, object]:
    pieces, size = [], 0
    async for piece in response.content.iter_chunked(1 << 16):
        size += len(piece)
        if size > MAX_ANSWER_BYTES:
            raise ReplicaLost(f"{name} sent more than {format_bytes(MAX_ANSWER_BYTES)}.", reason="protocol")
        pieces.append(piece)
    try:
        answer = parse_json(b"".join(pieces))
    except ValueError as error:
        raise ReplicaLost(f"{name} sent no JSON.", reason="protocol") from error
    if not isinstance(answer, dict):
        raise ReplicaLost(f"{name} sent no answer.", reason="protocol")
    return answer


def _whole(answer: JsonObject, request: GenerateRequest, name: str) -> Iterator[GenerationEvent]:
    if answer.get("error"):
        raise ReplicaLost(f"{name} failed: {read_problem(answer).message}", reason="failed")
    try:
        if request.task is Task.SCORE:
            yield from list(read_scores(answer))
        elif request.task is Task.EMBED:
            yield from list(read_embeddings(answer))
        elif request.task is Task.TOKENIZE:
            yield from list(read_tokens(answer))
        else:
            reader = Reader(request)
            yield from list(reader.read_whole(answer))
            if not reader.is_complete:
                raise _incomplete(reader, name, is_closed=True)
            yield reader.finish()
    except MALFORMED as error:
        raise ReplicaLost(f"{name} sent an answer of another shape.", reason="protocol") from error


def _incomplete(reader: Reader, name: str, *, is_closed: bool) -> ReplicaRefused | ReplicaLost:
    """Return what an answer means that lacks choices: a server that closed it after fewer of them does not know `n`."""
    ended, total = len(reader.reasons), reader.request.num_choices
    if not is_closed or not ended:
        return ReplicaLost(f"{name} stopped in the middle of its answer.", reason="broken")
    return ReplicaRefused(
        f"{name} gave {ended} of {total} answers: ask for each by itself.", status=400, code=UNSUPPORTED, field="n"
    )


def _key(upstream: Upstream) -> str | None:
    return read_key(key_env=upstream.key_env, key_file=upstream.key_file)


def _refusal(
    response: aiohttp.ClientResponse, body: bytes, *, name: str, upstream: Upstream, task: Task
) -> ReplicaRefused | ReplicaLost:
    """Return what an answer other than 200 means for the client: its own mistake, a limit, or the server's fault."""
    status, problem = response.status, read_problem(body)
    if status == 429:
        pause_s = read_retry_after(response.headers.get("retry-after", ""), most_s=MAX_PAUSE_S)
        return ReplicaRefused(
            f"{name} has reached its limit. {problem.message}".strip(),
            status=429,
            code=UPSTREAM_LIMIT,
            retry_after_s=math.ceil(pause_s) or None,
        )
    if status in (400, 413, 415, 422):
        return ReplicaRefused(
            problem.message or f"{name} refuses the request ({status}).",
            status=status,
            code=problem.code or "invalid_value",
            field=problem.field or None,
        )
    if status in (401, 403):
        return ReplicaLost(f"{name} refuses the key that it was given ({status}).", reason="key")
    if status in (404, 405) and task is not Task.GENERATE:
        kind = {Task.EMBED: "embeddings", Task.SCORE: "scores"}.get(task, "tokens")
        return ReplicaRefused(f"{name} returns no {kind} ({status}).", status=400, code=UNSUPPORTED, field="model")
    if status == 404:
        return ReplicaLost(
            f"{name} does not serve {upstream.model!r}, or not this kind of request (404).", reason="not_found"
        )
    return ReplicaLost(f"{name} answered with status {status}.", reason="failed")
