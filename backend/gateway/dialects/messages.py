"""Answers of `POST /v1/messages`, in the shapes of Anthropic's API."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from starlette.responses import JSONResponse, Response

from backend.domain.json_values import JsonObject
from backend.domain.serving.protocol import FinishEvent, FinishReason, OpenEvent
from backend.gateway.answers import encode_stream, named_event, read_to_end
from backend.gateway.dialects.blocks import Block, BlockReader, Change, Closed, Opened
from backend.gateway.errors import ApiError, ErrorStyle
from backend.gateway.request import ApiExchange, Events

ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
REASONS = {FinishReason.LENGTH: "max_tokens", FinishReason.TOOL_CALLS: "tool_use"}


def _error_body(error: ApiError) -> dict[str, object]:
    kind = ERRORS.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": error.message}}


def _error_response(error: ApiError) -> Response:
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    return JSONResponse(_error_body(error), status_code=error.status, headers=headers)


MESSAGES_ERRORS = ErrorStyle(response=_error_response, event=lambda error: named_event("error", _error_body(error)))


def stream_message(events: Events, *, exchange: ApiExchange) -> AsyncGenerator[bytes, None]:
    """Return the server-sent events of an answer."""
    reader, has_begun = BlockReader(), False

    def encode(event: OpenEvent | FinishEvent) -> bytes:
        nonlocal has_begun
        parts = []
        if not has_begun:
            has_begun = True
            parts.append(named_event("message_start", {"message": _message(exchange, [], None, 0)}))
        parts += [part for change in reader.read(event) for part in _parts(change)]
        if isinstance(event, FinishEvent):
            delta = {"delta": _stop(event), "usage": _usage(event, reader.reasoning_tokens)}
            parts += [named_event("message_delta", delta), named_event("message_stop", {})]
        return b"".join(parts)

    return encode_stream(events, encode)


async def collect_message(events: Events, *, exchange: ApiExchange) -> dict[str, object]:
    """Return a whole answer."""
    reader = BlockReader()
    finish = await read_to_end(events, reader.take)
    return _message(exchange, [_whole(block) for block in reader.blocks], finish, reader.reasoning_tokens)


def _message(
    exchange: ApiExchange, content: list[dict[str, object]], finish: FinishEvent | None, reasoning_tokens: int
) -> JsonObject:
    usage = (
        {"input_tokens": exchange.consumed.prompt_tokens, "output_tokens": 0}
        if finish is None
        else _usage(finish, reasoning_tokens)
    )
    stop = {"stop_reason": None, "stop_sequence": None} if finish is None else _stop(finish)
    head = {"id": exchange.id, "type": "message", "role": "assistant", "model": exchange.endpoint}
    return {**head, "content": content, **stop, "usage": usage}


def _stop(finish: FinishEvent) -> dict[str, object]:
    by_string = finish.finish_reason is FinishReason.STOP and isinstance(finish.stop, str)
    reason = "stop_sequence" if by_string else REASONS.get(finish.finish_reason, "end_turn")
    return {"stop_reason": reason, "stop_sequence": finish.stop if by_string else None}


def _usage(finish: FinishEvent, reasoning_tokens: int) -> dict[str, object]:
    """Return the counts; Anthropic's tokens of the prompt are those that were not found in the cache."""
    usage = finish.usage
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": reasoning_tokens},
    }


def _empty(block: Block) -> dict[str, object]:
    if block.kind == "call":
        return {"type": "tool_use", "id": block.call_id, "name": block.name, "input": {}}
    return (
        {"type": "text", "text": ""} if block.kind == "text" else {"type": "thinking", "thinking": "", "signature": ""}
    )


def _whole(block: Block) -> dict[str, object]:
    value = {"call": "input", "text": "text", "reasoning": "thinking"}[block.kind]
    return _empty(block) | {value: block.arguments() if block.kind == "call" else block.text}


def _parts(change: Change) -> list[bytes]:
    block = change.block
    if isinstance(change, Opened):
        return [named_event("content_block_start", {"index": block.index, "content_block": _empty(block)})]
    if isinstance(change, Closed):
        return [named_event("content_block_stop", {"index": block.index})]
    delta = {
        "text": {"type": "text_delta", "text": change.text},
        "reasoning": {"type": "thinking_delta", "thinking": change.text},
        "call": {"type": "input_json_delta", "partial_json": change.text},
    }[block.kind]
    return [named_event("content_block_delta", {"index": block.index, "delta": delta})]
