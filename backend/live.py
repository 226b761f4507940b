"""Routes that the browser polls, beside Streamlit's own: small signed deltas that cost no script run."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from backend.services.context import Context


def live_routes(get_context: Callable[[], Context]) -> list[Route]:
    """Return the routes, which ask for the context at the first request."""

    def health(_request: Request) -> Response:
        ctx = get_context()
        return JSONResponse({"status": "ok", "broker": ctx.queue.is_alive()})

    return [Route("/healthz", health)]
