"""Headers of every answer: the id of its request, and what is left of its key's limits."""

from __future__ import annotations

from uuid import uuid4

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.domain.serving.key_limits import KeyLimits
from backend.gateway.limits.demand import WINDOW_S, Counted, Refusal

REQUEST_ID = "x-request-id"
STATE = "answer_headers"


class AnswerHeaders:
    """Pure ASGI middleware around everything else, so that answers to crashes have the headers too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request; add what its route noted by the time that its answer begins."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[str, str] = {REQUEST_ID: f"req-{uuid4().hex[:24]}"}
        scope.setdefault("state", {})[STATE] = headers

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in headers.items()]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        await self._app(scope, receive, send_with_headers)


def headers_of(request: Request) -> dict[str, str]:
    """Return the headers that the answer to a request will have; a route adds to them."""
    headers: dict[str, str] = getattr(request.state, STATE)
    return headers


def limit_headers(limits: KeyLimits, counted: Counted | Refusal) -> dict[str, str]:
    """Return OpenAI's headers of the limits per minute that a key has. A limit is whole again a minute after the last
    request.
    """
    headers = {}
    for name, limit in (("requests", limits.requests), ("tokens", limits.tokens)):
        if limit is None:
            continue
        headers[f"x-ratelimit-limit-{name}"] = str(limit)
        if isinstance(counted, Counted):
            used, reset_s = getattr(counted, name), WINDOW_S
        elif counted.limit == name:
            used, reset_s = counted.used, counted.retry_after_s
        else:
            continue
        headers[f"x-ratelimit-remaining-{name}"] = str(max(0, int(limit - used)))
        headers[f"x-ratelimit-reset-{name}"] = f"{reset_s}s"
    return headers
