"""Streams of `POST /v1/chat/completions`, read for a service that is a client of a gateway. Closing a stream cancels
the generation.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp

from backend.errors import RoundhouseError, Unavailable

MAX_LINE_BYTES = 1 << 20
CONNECT_S, SILENCE_S = 3.0, 180.0
REMEDY = "Check that it runs (`roundhouse up` starts it), then try again."


class ChatRefused(RoundhouseError):
    """An answer other than 200, or an error inside a stream: its HTTP status (0 inside a stream) and code."""

    def __init__(self, message: str, *, status: int, code: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class ChatStreamClient:
    """HTTP client of a gateway with one connection pool. Belongs to one event loop."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def stream(self, url: str, *, key: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the chunks of one answer. Raises ChatRefused, and Unavailable where the gateway can't be reached or
        broke off.
        """
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        document = {**body, "stream": True, "stream_options": {"include_usage": True}}
        try:
            async with self._open().post(
                f"{url}/v1/chat/completions", json=document, headers=headers, allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise _refusal(response.status, await response.read())
                is_whole = False
                while line := await response.content.readline():  # to its end, so that the connection is used again
                    data = line[5:].strip()
                    is_whole = is_whole or data == b"[DONE]"
                    if (
                        line.startswith(b"data:") and not is_whole
                    ):  # else an empty line, or a comment that keeps the connection open
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

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
            connector = aiohttp.TCPConnector(limit=0)
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=timeout, read_bufsize=MAX_LINE_BYTES, trust_env=False
            )
        return self._session


def _chunk(data: bytes) -> dict[str, Any]:
    try:
        chunk = json.loads(data)
    except ValueError as error:
        raise Unavailable("The gateway sent a chunk that is no JSON.", remedy="Try again.") from error
    if not isinstance(chunk, dict):
        raise Unavailable("The gateway sent a chunk that is no object.", remedy="Try again.")
    if isinstance(problem := chunk.get("error"), dict):
        raise ChatRefused(
            str(problem.get("message", "The answer failed.")), status=0, code=str(problem.get("code") or "")
        )
    return chunk


def _refusal(status: int, body: bytes) -> ChatRefused:
    try:
        error = json.loads(body)["error"]
        return ChatRefused(str(error["message"]), status=status, code=str(error.get("code") or ""))
    except (ValueError, KeyError, TypeError):
        return ChatRefused(f"The gateway answered with status {status}.", status=status, code="")
