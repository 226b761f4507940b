"""Read bodies up to a size, and cancel responses when the client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractContextManager, aclosing, nullcontext

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from backend.domain.wording import shorten
from backend.gateway.errors import ApiError, ErrorStyle

SHOWN = 40  # characters of a header in an error
Holding = Callable[["_WhileConnected"], AbstractContextManager[None]]


class _WhileConnected(Response):
    """Run `_answer` and cancel it when the client disconnects, which the server does not report by itself in time.

    `holding` is entered for as long as the answer is open; `end_with` ends it before.
    """

    def __init__(self, holding: Holding | None = None, *, errors: ErrorStyle | None = None) -> None:
        super().__init__()
        self._holding, self._errors = holding, errors or ErrorStyle()
        self._work: asyncio.Task[None] | None = None
        self._end: ApiError | None = None
        self._has_begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as ASGI asks."""
        with nullcontext() if self._holding is None else self._holding(self):
            await self._run(scope, receive, send)

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = self._work = asyncio.create_task(self._answer(scope, receive, send))
        watch = asyncio.create_task(_disconnected(receive))
        watch.add_done_callback(lambda _: work.cancel())
        try:
            await work
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise  # the server ends
            if self._end is not None and not self._has_begun:
                await self._errors.response(self._end)(scope, receive, send)
            elif self._end is not None:
                await send({"type": "http.response.body", "body": self._errors.event(self._end), "more_body": False})
        finally:
            watch.cancel()

    def end_with(self, error: ApiError) -> None:
        """End the answer with an error, in its stream where that has begun."""
        if self._work is not None and not self._work.done():
            self._end = error
            self._work.cancel()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("a subclass answers")


class WholeAnswer(_WhileConnected):
    """Awaits a response, or answers with the ApiError that it raises."""

    def __init__(
        self,
        build: Callable[[], Awaitable[Response]],
        holding: Holding | None = None,
        *,
        errors: ErrorStyle | None = None,
    ) -> None:
        super().__init__(holding, errors=errors)
        self._build = build

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._build()
        except ApiError as error:
            response = self._errors.response(error)
        self._work = None  # a complete answer is sent whole
        await response(scope, receive, send)


class StreamedAnswer(_WhileConnected):
    """Server-sent events. The status line waits for the first chunk, so an early error is a plain error; a later one is
    the last event.
    """

    def __init__(
        self, chunks: AsyncGenerator[bytes, None], holding: Holding | None = None, *, errors: ErrorStyle | None = None
    ) -> None:
        super().__init__(holding, errors=errors)
        self._chunks = chunks

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._chunks) as chunks:
            try:
                chunk = await anext(chunks)
            except ApiError as error:
                await self._errors.response(error)(scope, receive, send)
                return
            self._has_begun = True
            await send({"type": "http.response.start", "status": 200, "headers": _SSE_HEADERS})
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            try:
                async for chunk in chunks:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except ApiError as error:
                await send({"type": "http.response.body", "body": self._errors.event(error), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


_SSE_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def read_json(request: Request, *, max_bytes: int) -> bytes:
    """Return the body of a request. Raises ApiError for another type or encoding of content, and above `max_bytes`."""
    # A cross-origin page can make a browser post text/plain, but not this type without a preflight request.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "Send the body with Content-Type: application/json.", code="unsupported_media_type")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        message = f"A body in Content-Encoding: {shorten(encoding, SHOWN)} is not read. Send it as it is, without."
        raise ApiError(415, message, code="unsupported_media_type")
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > max_bytes:
                raise ApiError(413, f"The body is larger than {max_bytes:,} bytes.", code="body_too_large")
    except ClientDisconnect as error:  # the client has left
        raise ApiError(400, "The body was not sent to its end.", code="body_incomplete") from error
    return bytes(body)
