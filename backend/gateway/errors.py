"""Errors in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydantic_core import to_json
from starlette.responses import JSONResponse, Response

from backend.domain.json_values import JsonObject
from backend.domain.serving.protocol import ENGINE_FAILED, QUEUE_TIMEOUT
from backend.errors import NotFound, Unavailable
from backend.infra.openai_api.upstream import UPSTREAM_LIMIT
from backend.infra.replicas import ReplicaRefused


class ApiError(Exception):
    """An error response with OpenAI's four fields and, for 429 and 503, the seconds after which to retry."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after_s = retry_after_s

    def body(self) -> JsonObject:
        """Return the JSON document."""
        return {
            "error": {"message": self.message, "type": _type_of(self.status), "param": self.param, "code": self.code}
        }

    def response(self) -> Response:
        """Return the HTTP response."""
        headers = {}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(self.retry_after_s)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), status_code=self.status, headers=headers)


@dataclass(frozen=True)
class ErrorStyle:
    """An error in the words of an API: as a whole response, and as the last event of a stream."""

    response: Callable[[ApiError], Response] = ApiError.response
    event: Callable[[ApiError], bytes] = lambda error: b"data: " + to_json(error.body()) + b"\n\n"


def _naming(error: ApiError, field: str) -> ApiError:
    """Return an error of a prompt with the name that the prompt has at an endpoint."""
    if error.param not in ("messages", "prompt") or error.code == "unknown_parameter":
        return error
    return ApiError(error.status, error.message, code=error.code, param=field, retry_after_s=error.retry_after_s)


def _errors_naming(field: str) -> ErrorStyle:
    plain = ErrorStyle()
    return ErrorStyle(
        response=lambda error: plain.response(_naming(error, field)),
        event=lambda error: plain.event(_naming(error, field)),
    )


INPUT_ERRORS, PROMPT_ERRORS = _errors_naming("input"), _errors_naming("prompt")
"""Errors of endpoints whose prompt is `input`, as of `/v1/responses` and `/v1/embeddings`, or `prompt`."""


def _type_of(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"


INVALID_KEY = "invalid_api_key"
"""Code of the error for a wrong key, or for none where one is required."""


def invalid_key(*, required: bool) -> ApiError:
    """Return the error for a missing, unknown or revoked key, without the key; it says so where none is required."""
    if required:
        text = "No API key, or one that is not valid here. Send it as `Authorization: Bearer KEY`."
    else:
        text = "This API key is not valid here. None is required on this machine: send `none`."
    return ApiError(401, text, code=INVALID_KEY)


def key_revoked() -> ApiError:
    """Return the error that ends the open answers of a revoked key."""
    return ApiError(401, "The API key was revoked while this answer was written.", code="key_revoked")


def unknown_model(error: NotFound) -> ApiError:
    """Return the error for a `model` that is not an endpoint, or a stopped one."""
    return ApiError(
        404,
        str(error),
        code="model_not_found",
        param="model",
    )


def unavailable(error: Unavailable) -> ApiError:
    """Return the error of a gateway that started while the database was away."""
    return ApiError(503, str(error), code="database_unavailable", retry_after_s=5)


def no_replica(endpoint: str, *, silent: int = 0) -> ApiError:
    """Return the error for an endpoint without a healthy replica; `silent` of its replicas miss their health checks."""
    if silent:
        count = "The replica" if silent == 1 else f"None of the {silent} replicas"
        does = "does not answer" if silent == 1 else "answers"
        message = f"{count} of {endpoint!r} {does}. It is restarted where its process has ended; try again in a moment."
        return ApiError(503, message, code="no_replica", retry_after_s=5)
    return ApiError(
        503,
        f"No replica of {endpoint!r} is ready. Deploy it, or try again in a moment.",
        code="no_replica",
        retry_after_s=5,
    )


def replica_lost() -> ApiError:
    """Return the error when every replica that was tried failed."""
    return ApiError(502, "The replica broke off before the answer was complete.", code="replica_lost")


def upstream_failed(message: str) -> ApiError:
    """Return the error when the server behind an endpoint failed; the message names it."""
    return ApiError(502, message, code="upstream_failed")


def failed_on_request(message: str) -> ApiError:
    """Return the error of a request that an engine failed on; it would fail on another replica's too."""
    return ApiError(500, f"{message} It was not tried on another replica.", code=ENGINE_FAILED)


def from_refusal(error: ReplicaRefused) -> ApiError:
    """Translate a replica's refusal for the client."""
    if error.code == QUEUE_TIMEOUT:
        return ApiError(429, error.message, code=error.code, retry_after_s=5)
    if error.code == UPSTREAM_LIMIT:
        return ApiError(429, error.message, code=error.code, retry_after_s=error.retry_after_s or 1)
    if error.status == 429:
        return ApiError(
            429, "Every replica's queue is full. Try again in a moment.", code="queue_full", retry_after_s=1
        )
    return ApiError(error.status, error.message, code=error.code, param=error.field)
