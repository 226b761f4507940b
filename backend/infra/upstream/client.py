"""HTTP to models on other servers with the OpenAI API: one request as the same stream of events that a replica sends.

Redirects are not followed, proxies of the environment are not used, and names that resolve to a link-local or metadata
address are not called. Closing a stream early closes its connection.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import socket
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.http_exceptions import HttpProcessingError

from backend.domain.serving.protocol import ANSWER_LIMIT, GenerateRequest, GenerationErrorEvent, GenerationEvent, Task
from backend.domain.serving.upstream import Upstream, is_forbidden
from backend.errors import Unavailable
from backend.infra.keys import read_key
from backend.infra.replicas import ReplicaLost, ReplicaRefused, open_session
from backend.infra.upstream.bodies import to_call
from backend.infra.upstream.events import Reader, estimate_prompt, parse_json, read_embeddings, read_scores, read_tokens

CONNECT_S = 5.0
MAX_ANSWER_BYTES = 64 * 2**20
MAX_ERROR_BYTES = 64 * 2**10
SHOWN = 300
PROBED_S = 10.0
UPSTREAM_LIMIT = "upstream_limit"
UNSUPPORTED = "unsupported_parameter"
"""Error code: the other server has reached a limit of its own (429)."""
REFUSED_ADDRESS = "its name resolves to a link-local, metadata or multicast address"
MALFORMED = (ValueError, KeyError, TypeError, AttributeError, OverflowError)


class UpstreamClient:
    """HTTP client of any number of other servers with one connection pool. Belongs to one event loop."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._open: Counter[tuple[str, str]] = Counter()
        self._probed: dict[tuple[str, str], tuple[float, bool]] = {}

    async def stream(
        self, upstream: Upstream, *, name: str, request: GenerateRequest, on_accept: Callable[[int], None] | None = None
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
            timeout = aiohttp.ClientTimeout(total=timeout_s)
            headers = _headers(upstream)
            async with self._pool().get(
                f"{upstream.url}/models", headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                answered = response.status < 500
        except (aiohttp.ClientError, TimeoutError, OSError, Unavailable):
            answered = False
        self._probed[slot] = (now, answered)
        return answered

    async def close(self) -> None:
        """Close the connection pool."""
        if self._session is not None:
            await self._session.close()

    async def _call(
        self,
        upstream: Upstream,
        name: str,
        request: GenerateRequest,
        clock: Clock,
        on_accept: Callable[[int], None] | None,
    ) -> AsyncGenerator[GenerationEvent, None]:
        path, body = to_call(request, model=upstream.model)
        url = upstream.url.removesuffix("/v1") if path == "tokenize" else upstream.url
        try:
            headers = _headers(upstream)
        except Unavailable as error:
            raise ReplicaLost(f"The key for {name} can't be read here.", reason="key") from error
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_S, sock_connect=CONNECT_S, sock_read=None)
        async with clock.limit(upstream.first_token_s):
            response = await self._pool().post(
                f"{url}/{path}", json=body, headers=headers, timeout=timeout, allow_redirects=False
            )
        async with response:
            if response.status != 200:
                async with asyncio.timeout(CONNECT_S):
                    problem = await response.content.read(MAX_ERROR_BYTES)
                raise _refusal(response, problem, name=name, upstream=upstream, task=request.task)
            if on_accept is not None:
                on_accept(estimate_prompt(request))
            if request.task is not Task.GENERATE or request.echo or response.content_type == "application/json":
                async with clock.limit(upstream.answer_limit_s):
                    answer = await _read_whole(response, name)
                for event in _whole(answer, request, name):
                    yield event
                return
            async for event in _read_stream(response, upstream, Reader(request), clock, name):
                yield event

    def _pool(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = open_session(GuardedResolver())
        return self._session


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
    """Resolves names, and refuses those of addresses that are never called, also where a name changes its address
    later.
    """

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


def refuse_address(address: str) -> None:
    """Raise OSError for an address that is never called."""
    if is_forbidden(ipaddress.ip_address(address.partition("%")[0])):
        raise OSError(REFUSED_ADDRESS)


async def _read_stream(
    response: aiohttp.ClientResponse, upstream: Upstream, reader: Reader, clock: Clock, name: str
) -> AsyncGenerator[GenerationEvent, None]:
    """Yield the events of server-sent events. Comments keep a connection alive and count as nothing."""
    limit_s = upstream.first_token_s
    lines = response.content
    while True:
        try:
            async with clock.limit(limit_s):
                data = await _next_data(lines)
        except (ValueError, HttpProcessingError) as error:
            raise ReplicaLost(f"{name} sent a line that is too long.", reason="protocol") from error
        if data is None or data == b"[DONE]":
            if not reader.is_complete:
                raise _incomplete(reader, name, is_closed=data is not None)
            yield reader.finish()
            return
        for event in _parse(data, reader, name):
            limit_s = upstream.between_tokens_s
            yield event


async def _next_data(lines: aiohttp.StreamReader) -> bytes | None:
    """Return the data of the next event, None at the end."""
    while line := await lines.readline():
        if line.startswith(b"data:"):
            return line[5:].strip()
    return None


def _parse(data: bytes, reader: Reader, name: str) -> list[GenerationEvent]:
    try:
        chunk = parse_json(data)
        if isinstance(chunk, dict) and chunk.get("error"):
            raise ReplicaLost(f"{name} failed: {_message(chunk)}", reason="failed")
        return list(reader.read(chunk))
    except MALFORMED as error:
        raise ReplicaLost(f"{name} sent an event that is no part of an answer.", reason="protocol") from error


async def _read_whole(response: aiohttp.ClientResponse, name: str) -> dict[str, Any]:
    pieces, size = [], 0
    async for piece in response.content.iter_chunked(1 << 16):
        size += len(piece)
        if size > MAX_ANSWER_BYTES:
            raise ReplicaLost(f"{name} sent more than {MAX_ANSWER_BYTES >> 20} MiB.", reason="protocol")
        pieces.append(piece)
    try:
        answer = parse_json(b"".join(pieces))
    except ValueError as error:
        raise ReplicaLost(f"{name} sent no JSON.", reason="protocol") from error
    if not isinstance(answer, dict):
        raise ReplicaLost(f"{name} sent no answer.", reason="protocol")
    return answer


def _whole(answer: dict[str, Any], request: GenerateRequest, name: str) -> Iterator[GenerationEvent]:
    if answer.get("error"):
        raise ReplicaLost(f"{name} failed: {_message(answer)}", reason="failed")
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


def _headers(upstream: Upstream) -> dict[str, str]:
    key = read_key(key_env=upstream.key_env, key_file=upstream.key_file)
    return {"Authorization": f"Bearer {key}"} if key else {}


def _refusal(
    response: aiohttp.ClientResponse, body: bytes, *, name: str, upstream: Upstream, task: Task
) -> ReplicaRefused | ReplicaLost:
    """Return what an answer other than 200 means for the client: its own mistake, a limit, or a fault of the server or
    its config.
    """
    status = response.status
    try:
        document = parse_json(body)
    except ValueError:
        document = None
    message = _message(document)
    if status == 429:
        return ReplicaRefused(
            f"{name} has reached its limit. {message}".strip(),
            status=429,
            code=UPSTREAM_LIMIT,
            retry_after_s=_retry_after(response.headers.get("retry-after", "")),
        )
    if status in (400, 413, 415, 422):
        error = document.get("error") if isinstance(document, dict) else None
        code = error.get("code") if isinstance(error, dict) else None
        field = error.get("param") if isinstance(error, dict) else None
        return ReplicaRefused(
            message or f"{name} refuses the request ({status}).",
            status=status,
            code=str(code or "invalid_value"),
            field=str(field) if field else None,
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


def _message(document: Any) -> str:
    """Return the beginning of an error's text on one line; empty where there is none."""
    error = document.get("error", document.get("detail")) if isinstance(document, dict) else None
    text = error.get("message") if isinstance(error, dict) else error
    return " ".join(text[: 4 * SHOWN].split())[:SHOWN] if isinstance(text, str) else ""


def _retry_after(value: str) -> int | None:
    """Return whole seconds up to an hour; None for nothing, a date or nonsense."""
    try:
        seconds = float(value)
    except ValueError:
        return None
    return min(3600, max(1, math.ceil(seconds))) if math.isfinite(seconds) else None
