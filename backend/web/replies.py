"""Requests and replies of the browser's routes: JSON bodies, errors with a remedy, replies that no cache keeps."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from backend.domain.validation import read_values
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound, RoundhouseError
from backend.services.battles.ballots import TooFast

NEVER_STORED = {"cache-control": "no-store"}
STATUS: dict[type[RoundhouseError], int] = {
    InvalidInput: 422,
    NotFound: 404,
    TooFast: 429,
    Conflict: 409,
    NotAllowed: 403,
}
Sent = TypeVar("Sent", bound=BaseModel)


def reply(document: Any) -> Response:
    """Return a document as JSON."""
    return JSONResponse(document, headers=NEVER_STORED)


def refuse(error: RoundhouseError) -> Response:
    """Return the reply to a request that failed."""
    status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 400)
    return reply_error(error.message, error.remedy, status)


def reply_error(message: str, remedy: str, status: int) -> Response:
    """Return an error and its remedy as JSON."""
    return JSONResponse({"error": message, "remedy": remedy}, status_code=status, headers=NEVER_STORED)


def bearer_token(request: Request) -> str:
    """Return the token of a request; empty without one."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


async def read_body(request: Request, *, limit: int) -> bytes | Response:
    """Return a body of JSON, or the reply that refuses another type or more bytes than the limit."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return reply_error("The body is not JSON.", "Send application/json.", 415)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            return reply_error("The body is too large.", f"Send at most {limit:,} bytes.", 413)
    return bytes(body)


def parse_sent(schema: type[Sent], body: bytes) -> Sent:
    """Return a body as a model. Raises InvalidInput that names the field."""
    try:
        return read_values(schema, json.loads(body))
    except (ValueError, RecursionError) as error:
        raise InvalidInput("The body is not JSON.", remedy="Send one JSON object.") from error
