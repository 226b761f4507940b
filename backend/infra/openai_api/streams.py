"""Streams of OpenAI-compatible APIs over one pool of connections, read event by event.

Redirects are not followed, and proxies of the environment are not used. Closing a stream early closes its connection,
which cancels the generation.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping

import aiohttp
from aiohttp.abc import AbstractResolver

from backend.domain.json_values import JsonObject
from backend.domain.openai_servers import read_problem
from backend.errors import RoundhouseError, Unavailable
from backend.infra.replicas import open_session

GATEWAY_CONNECT_S, SILENCE_S = 3.0, 180.0
DONE = b"[DONE]"
REMEDY = "Check that it runs (`roundhouse up` starts it), then try again."


class ApiRefused(RoundhouseError):
    """An answer other than 200, or an error inside a stream: its HTTP status (0 inside a stream) and code."""

    def __init__(self, message: str, *, status: int, code: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class StreamClient:
    """HTTP client of any number of APIs with one connection pool. Belongs to one event loop."""

    def __init__(self, resolver: AbstractResolver | None = None) -> None:
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None

    async def post(
        self, url: str, *, key: str | None, body: Mapping[str, object], connect_s: float, silence_s: float | None = None
    ) -> aiohttp.ClientResponse:
        """Send a request and return the response, whose content is not read yet. Raises aiohttp's errors."""
        timeout = aiohttp.ClientTimeout(total=None, connect=connect_s, sock_connect=connect_s, sock_read=silence_s)
        return await self._pool().post(url, json=body, headers=_headers(key), timeout=timeout, allow_redirects=False)

    async def is_there(self, url: str, *, key: str | None, timeout_s: float) -> bool:
        """Return whether a server answers a GET in time, with any status. Raises aiohttp's errors."""
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        headers = _headers(key)
        async with self._pool().get(url, headers=headers, timeout=timeout, allow_redirects=False) as response:
            return response.status < 500

    async def chat(self, url: str, *, key: str, body: Mapping[str, object]) -> AsyncGenerator[JsonObject, None]:
        """Yield the chunks of one answer of a gateway's `POST /v1/chat/completions`.

        Raises ApiRefused, and Unavailable where the gateway can't be reached or broke off.
        """
        document = {**body, "stream": True, "stream_options": {"include_usage": True}}
        try:
            response = await self.post(
                f"{url}/v1/chat/completions",
                key=key,
                body=document,
                connect_s=GATEWAY_CONNECT_S,
                silence_s=SILENCE_S,
            )
            async with response:
                if response.status != 200:
                    raise _refused(response.status, await response.read())
                is_whole = False
                while (data := await next_data(response.content)) is not None:  # to its end, for the next request
                    is_whole = is_whole or data == DONE
                    if not is_whole:
                        yield _chunk(data)
                if is_whole:
                    return
                raise Unavailable("The gateway broke off in the middle of its answer.", remedy="Try again.")
        except TimeoutError as error:
            raise Unavailable(f"The gateway sent nothing for {SILENCE_S:.0f} s.", remedy="Try again.") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(
                f"The gateway at {url} can't be reached ({type(error).__name__}).", remedy=REMEDY
            ) from error

    async def close(self) -> None:
        """Close the connection pool."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _pool(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = open_session(self._resolver)
        return self._session


def data_of(line: bytes) -> bytes | None:
    """Return the data of a line of server-sent events; None for an empty one, or a comment that keeps it open."""
    return line[5:].strip() if line.startswith(b"data:") else None


async def next_data(lines: aiohttp.StreamReader) -> bytes | None:
    """Return the data of the next event, None at the end."""
    while line := await lines.readline():
        if (data := data_of(line)) is not None:
            return data
    return None


def _headers(key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def _chunk(data: bytes) -> dict[str, object]:
    try:
        chunk = json.loads(data)
    except ValueError as error:
        raise Unavailable("The gateway sent a chunk that is not JSON.", remedy="Try again.") from error
    if not isinstance(chunk, dict):
        raise Unavailable("The gateway sent a chunk that is not an object.", remedy="Try again.")
    if isinstance(chunk.get("error"), dict):
        problem = read_problem(chunk)
        raise ApiRefused(problem.message or "The answer failed.", status=0, code=problem.code)
    return chunk


def _refused(status: int, body: bytes) -> ApiRefused:
    problem = read_problem(body)
    message = problem.message or f"The gateway answered with status {status}."
    return ApiRefused(message, status=status, code=problem.code)
