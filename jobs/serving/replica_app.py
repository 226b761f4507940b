"""HTTP API of a replica: `POST /generate`, `GET /health`, `GET /stats`, with the internal token."""

from __future__ import annotations

import asyncio
import hmac
import time
from dataclasses import asdict
from typing import Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from backend.domain.serving.protocol import ErrorEvent, FinishEvent, GenerateRequest, GenerationEvent, TokenEvent, first_problem
from backend.errors import InvalidInput, JobFailed, RoundhouseError, Unavailable
from backend.infra.hosts import HostGuard, HostRules
from jobs.serving.engine import Engine, Handle, QueueFull
from jobs.serving.prompts import encode_request
from jobs.serving.start import generate_one_token

STALL_S = 60.0
FRESH_S = 10.0
PROBE_S = 15.0


class RequireToken:
    """Pure ASGI middleware: 401 without the internal token."""

    def __init__(self, app: ASGIApp, *, token: str) -> None:
        self._app, self._expected = app, f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request, or answer 401."""
        if scope["type"] == "http":
            header = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(header, self._expected):
                await _error(401, "The internal token is missing or wrong.", code="unauthorized")(scope, receive, send)
                return
        await self._app(scope, receive, send)


class Replica:
    """State of the routes: engine, tokenizer, and whether new requests are accepted."""

    def __init__(self, engine: Engine, tokenizer: Any, *, name: str) -> None:
        self.engine, self.tokenizer, self.name = engine, tokenizer, name
        self.is_draining = False
        self.num_served = 0
        self._open = 0
        self._busy_since: float | None = None

    @property
    def num_open(self) -> int:
        """Open requests."""
        return self._open

    def stall_s(self) -> float:
        """Return the seconds without a new token while requests are open; 0 when idle."""
        if self._busy_since is None:
            return 0.0
        age = self.engine.stats().last_token_age_s
        busy = time.monotonic() - self._busy_since
        return busy if age is None else min(busy, age)

    async def generate(self, request: Request) -> Response:
        """Answer one request, as a stream of JSON lines or as one JSON document."""
        if self.is_draining:
            return _error(503, "This replica is shutting down.", code="draining")
        try:
            body = GenerateRequest.model_validate_json(await request.body())
            ids = await asyncio.to_thread(encode_request, self.tokenizer, body)
            events = Events()
            handle = self.engine.submit(ids, body.params, events.put)
        except ValidationError as error:
            field, message = first_problem(error.errors())
            return _error(422, message, code="invalid_request", field=field)
        except QueueFull as error:
            return _error(429, str(error), code=error.code)
        except (InvalidInput, Unavailable) as error:
            return _refusal(error)
        self._begin()
        return Answer(handle, events, stream=body.stream, on_end=self._end)

    async def health(self, request: Request) -> Response:
        """Answer 200 if the engine generated a token recently, or can now."""
        del request
        if not self.engine.is_alive() or self.stall_s() > STALL_S:
            return _error(503, f"No token for {self.stall_s():.0f} s.", code="stalled")
        age = self.engine.stats().last_token_age_s
        if self._open == 0 and (age is None or age > FRESH_S):
            try:
                await asyncio.to_thread(generate_one_token, self.engine, timeout_s=PROBE_S)
            except (JobFailed, Unavailable) as error:
                return _error(503, str(error), code="stalled")
        return JSONResponse({"status": "draining" if self.is_draining else "ok", "name": self.name})

    async def stats(self, request: Request) -> Response:
        """Return the engine's counters."""
        del request
        return JSONResponse({"engine": self.engine.name, "context_length": self.engine.context_length, **asdict(self.engine.stats())})

    def _begin(self) -> None:
        if self._open == 0:
            self._busy_since = time.monotonic()
        self._open += 1
        self.num_served += 1

    def _end(self) -> None:
        self._open -= 1
        if self._open == 0:
            self._busy_since = None


class Events:
    """A queue from the engine's thread to the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[GenerationEvent] = asyncio.Queue()

    def put(self, event: GenerationEvent) -> None:
        """Add an event, from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)

    async def next_batch(self) -> list[GenerationEvent]:
        """Wait for an event; return it with all queued ones."""
        batch = [await self._queue.get()]
        while not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return batch


class Answer(Response):
    """Sends a generation and cancels it as soon as the client leaves, streamed or not."""

    def __init__(self, handle: Handle, events: Events, *, stream: bool, on_end: Any) -> None:
        super().__init__()
        self._handle, self._events, self._stream, self._on_end = handle, events, stream, on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        watch = asyncio.create_task(self._cancel_on_disconnect(receive))
        try:
            if self._stream:
                await self._send_lines(send)
            else:
                await (await self._collect())(scope, receive, send)
        finally:
            watch.cancel()
            self._handle.cancel()
            self._on_end()

    async def _cancel_on_disconnect(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._handle.cancel()  # its finish event ends the response

    async def _send_lines(self, send: Send) -> None:
        headers = [(b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        more = True
        while more:
            batch = await self._events.next_batch()
            more = all(isinstance(event, TokenEvent) for event in batch)
            lines = "".join(event.model_dump_json() + "\n" for event in batch)
            await send({"type": "http.response.body", "body": lines.encode(), "more_body": more})

    async def _collect(self) -> Response:
        text: list[str] = []
        ids: list[int] = []
        while True:
            for event in await self._events.next_batch():
                if isinstance(event, TokenEvent):
                    text.append(event.text)
                    ids.extend(event.token_ids)
                elif isinstance(event, FinishEvent):
                    return JSONResponse({"text": "".join(text), "token_ids": ids, **event.model_dump(mode="json", exclude={"type"})})
                elif isinstance(event, ErrorEvent):
                    return _error(500, event.message, code=event.code)


def create_replica_app(replica: Replica, *, internal_token: str) -> ASGIApp:
    """Return the ASGI app of a replica."""
    routes = [
        Route("/generate", replica.generate, methods=["POST"]),
        Route("/health", replica.health),
        Route("/stats", replica.stats),
    ]
    return HostGuard(RequireToken(Starlette(routes=routes), token=internal_token), rules=HostRules())


def _refusal(error: RoundhouseError) -> Response:
    status = 400 if isinstance(error, InvalidInput) else 503
    return _error(status, str(error), code=getattr(error, "code", "invalid_request" if status == 400 else "unavailable"), field=error.field)


def _error(status: int, message: str, *, code: str, field: str | None = None) -> Response:
    return JSONResponse({"error": {"message": message, "code": code, "field": field}}, status_code=status)
