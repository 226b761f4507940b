"""HTTP to replicas: one request as a stream of events, asynchronous for the gateway and blocking for services.

Closing either stream early closes its connection, and the replica stops generating within a step.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver
from pydantic import ValidationError

from backend.domain.serving.protocol import (
    PROMPT_TOKENS,
    REQUEST_FAILED,
    TOOLS_LEFT_OUT,
    Accepted,
    FinishEvent,
    GenerateRequest,
    GenerationErrorEvent,
    GenerationEvent,
    parse_event,
)
from backend.errors import InvalidInput, RoundhouseError, Unavailable

MAX_LINE_BYTES = 1 << 20
ADAPTER_S = 60.0


@dataclass(frozen=True)
class ReplicaTimeouts:
    """Seconds to wait for a connection, for the first line and between two lines. A replica that is busy with a long
    prompt sends an empty line every few seconds.
    """

    connect_s: float = 2.0
    first_token_s: float = 30.0
    between_tokens_s: float = 20.0


@dataclass(eq=False)
class _Wait:
    """The wait of an open request for its replica's next line, and when the last one came."""

    limit: asyncio.Timeout
    last_at: float


class ReplicaLost(Unavailable):
    """A replica that can't be reached, broke off or timed out. `reason` is a short label for metrics: only at
    `connection` has the replica surely not seen the request.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message, remedy="Try again; a lost replica restarts automatically.")
        self.reason = reason


class ReplicaRefused(RoundhouseError):
    """A replica's answer other than 200: its HTTP status and its own code, such as `queue_full` or
    `context_length_exceeded`, and the seconds to wait where another server named them.
    """

    def __init__(
        self, message: str, *, status: int, code: str, field: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message, field=field)
        self.status, self.code, self.retry_after_s = status, code, retry_after_s


class ReplicaClient:
    """HTTP client of any number of replicas with one connection pool. Belongs to one event loop."""

    def __init__(self, *, timeouts: ReplicaTimeouts | None = None) -> None:
        self._timeouts = timeouts or ReplicaTimeouts()
        self._connect_timeout = aiohttp.ClientTimeout(
            connect=self._timeouts.connect_s, sock_connect=self._timeouts.connect_s
        )
        self._session: aiohttp.ClientSession | None = None
        self._waits: dict[str, set[_Wait]] = defaultdict(set)

    def drop(self, url: str, *, silent_s: float) -> int:
        """End the open requests of a replica that have had no line for some seconds, as if their time had run out.
        Return their number.
        """
        now = asyncio.get_running_loop().time()
        silent = [
            wait for wait in self._waits.get(url, ()) if now - wait.last_at >= silent_s and not wait.limit.expired()
        ]
        for wait in silent:
            wait.limit.reschedule(now)
        return len(silent)

    async def stream(
        self, url: str, *, token: str, request: GenerateRequest, on_accept: Callable[[Accepted], None] | None = None
    ) -> AsyncGenerator[GenerationEvent, None]:
        """Yield the events of one generation; the last is a finish or an error event. `on_accept` is called as soon
        as the replica has accepted the request, so that one which is cut off counts its prompt.

        Raises ReplicaRefused before the first event, and ReplicaLost at any time. Close the iterator to cancel.
        """
        wait: _Wait | None = None
        try:
            async with asyncio.timeout(self._timeouts.first_token_s) as limit:
                wait = self._begin(url, limit)
                response = await self._post(url, token, request)
            async with response:
                if response.status != 200:
                    async with asyncio.timeout(self._timeouts.first_token_s) as wait.limit:
                        raise _refusal(response.status, await response.read())
                counted = response.headers.get(PROMPT_TOKENS, "")
                if on_accept is not None and counted.isdigit():
                    on_accept(Accepted(int(counted), response.headers.get(TOOLS_LEFT_OUT) == "1"))
                limit_s = self._timeouts.first_token_s
                while True:
                    async with asyncio.timeout(limit_s) as wait.limit:
                        line = await response.content.readline()
                    wait.last_at = asyncio.get_running_loop().time()
                    if not line:
                        raise ReplicaLost("The replica broke off in the middle of its answer.", reason="broken")
                    limit_s = self._timeouts.between_tokens_s
                    if line == b"\n":
                        continue
                    event = parse_event(line)
                    yield event
                    if isinstance(event, FinishEvent | GenerationErrorEvent):
                        return
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise ReplicaLost(f"The replica can't be reached ({type(error).__name__}).", reason="connection") from error
        except TimeoutError as error:
            raise ReplicaLost("The replica did not answer in time.", reason="timeout") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ReplicaLost(f"The replica broke off ({type(error).__name__}).", reason="broken") from error
        except (ValidationError, ValueError) as error:
            raise ReplicaLost("The replica sent an invalid event.", reason="protocol") from error
        finally:
            if wait is not None:
                self._end(url, wait)

    async def probe(self, url: str, *, token: str, timeout_s: float) -> bool:
        """Return whether a replica answers in time. Its engine is its own watchdog's concern."""
        try:
            timeout = aiohttp.ClientTimeout(total=timeout_s)
            async with self._pool().get(
                f"{url}/stats", headers={"Authorization": f"Bearer {token}"}, timeout=timeout
            ) as response:
                return response.status < 500
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def close(self) -> None:
        """Close the connection pool."""
        if self._session is not None:
            await self._session.close()

    def _begin(self, url: str, limit: asyncio.Timeout) -> _Wait:
        wait = _Wait(limit, asyncio.get_running_loop().time())
        self._waits[url].add(wait)
        return wait

    def _end(self, url: str, wait: _Wait) -> None:
        self._waits[url].discard(wait)
        if not self._waits[url]:
            del self._waits[url]

    def _pool(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = open_session()
        return self._session

    def _post(self, url: str, token: str, request: GenerateRequest) -> Any:
        return self._pool().post(
            f"{url}/generate",
            data=request.model_dump_json(),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
            timeout=self._connect_timeout,
            allow_redirects=False,
        )


def open_session(resolver: AbstractResolver | None = None, *, total_s: float | None = None) -> aiohttp.ClientSession:
    """Return a connection pool without proxies of the environment; cookies of a server are not kept, as they would be
    sent with the requests of others. A request may take `total_s`, if given.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, resolver=resolver),
        cookie_jar=aiohttp.DummyCookieJar(),
        read_bufsize=MAX_LINE_BYTES,
        timeout=aiohttp.ClientTimeout(total=total_s),
        trust_env=False,
    )


def change_adapters(url: str, *, token: str, change: Mapping[str, object]) -> None:
    """Load or unload an adapter at a replica: `{"load": FOLDER}` or `{"unload": FOLDER}`.

    Raises InvalidInput where it can't be served there, Unavailable where the replica does not answer.
    """
    import httpx2

    try:
        with httpx2.Client(timeout=ADAPTER_S, trust_env=False) as client:
            response = client.post(f"{url}/adapters", json=change, headers={"Authorization": f"Bearer {token}"})
    except httpx2.HTTPError as error:
        raise Unavailable(f"A replica can't be reached ({type(error).__name__}).") from error
    if response.status_code == 400:
        raise InvalidInput(str(_refusal(400, response.content)), field="checkpoint")


def _refusal(status: int, body: bytes) -> ReplicaRefused | ReplicaLost:
    try:
        error = json.loads(body)["error"]
        message, code, field = str(error["message"]), str(error["code"]), error.get("field")
    except (ValueError, KeyError, TypeError):
        return ReplicaLost(f"The replica answered with status {status}.", reason="protocol")
    if status == 401:  # another replica has taken its port since
        return ReplicaLost(message, reason="connection")
    if status >= 500 and code not in ("draining", REQUEST_FAILED):
        return ReplicaLost(message, reason="failed")
    return ReplicaRefused(message, status=status, code=code, field=field)
