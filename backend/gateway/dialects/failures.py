"""Answers to what went wrong before or beside an answer, in the words of the API that was called."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from backend.errors import Unavailable
from backend.gateway.dialects.messages import MESSAGES_ERRORS
from backend.gateway.errors import ApiError, ErrorStyle, unavailable


def _errors_of(request: Request) -> ErrorStyle:
    return MESSAGES_ERRORS if request.url.path.startswith("/v1/messages") else ErrorStyle()


async def _answer_api_error(request: Request, error: Exception) -> Response:
    return _errors_of(request).response(error) if isinstance(error, ApiError) else await _answer_crash(request, error)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 404:
        unknown = ApiError(404, f"There is no {request.method} {request.url.path} here.", code="unknown_url")
        return _errors_of(request).response(unknown)
    return _errors_of(request).response(ApiError(status, str(getattr(error, "detail", error)), code=None))


async def _answer_unavailable(request: Request, error: Exception) -> Response:
    return (
        _errors_of(request).response(unavailable(error))
        if isinstance(error, Unavailable)
        else await _answer_crash(request, error)
    )


async def _answer_crash(request: Request, error: Exception) -> Response:
    del error  # the server logs the traceback, which a client must not see
    crash = ApiError(500, "The gateway failed on this request; its log has the cause.", code="internal_error")
    return _errors_of(request).response(crash)


HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {
    ApiError: _answer_api_error,
    Unavailable: _answer_unavailable,
    HTTPException: _answer_http_error,
    Exception: _answer_crash,
}
