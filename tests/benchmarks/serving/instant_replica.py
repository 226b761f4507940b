"""A replica that answers at once, for measuring what stands before it: as many one-token events as the request's
limit.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from backend.domain.serving.protocol import PROMPT_TOKENS


def create_instant_replica() -> Starlette:
    """Return the app."""

    async def generate(request: Request) -> Response:
        body = await request.json()
        return StreamingResponse(_events(int(body["params"]["max_tokens"])), headers={PROMPT_TOKENS: "8"})

    return Starlette(routes=[Route("/generate", generate, methods=["POST"])])


async def _events(tokens: int) -> Any:
    for index in range(tokens):
        yield json.dumps({"type": "token", "text": "word ", "token_ids": [index], "index": index}) + "\n"
        await asyncio.sleep(0)
    usage = {"prompt_tokens": 8, "completion_tokens": tokens}
    yield (
        json.dumps({"type": "finish", "finish_reason": "length", "usage": usage, "ttft_ms": 1.0, "tok_per_sec": 9.0})
        + "\n"
    )
