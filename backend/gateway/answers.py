"""OpenAI's responses, complete and streamed, from the events of one generation."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Literal

from backend.domain.serving.protocol import FinishEvent, OpenEvent, TokenEvent, TokenUsage
from backend.gateway.relay import Trace

Kind = Literal["chat", "text"]
_LINE_SEPARATORS = {ord(char): f"\\u{ord(char):04x}" for char in "\x85\u2028\u2029"}
DONE = b"data: [DONE]\n\n"
Events = AsyncGenerator[OpenEvent | FinishEvent, None]


def sse(document: dict[str, Any]) -> bytes:
    """Return one server-sent event.

    Line separators that JSON leaves unescaped are escaped, because many clients split a stream at them.
    """
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":")).translate(_LINE_SEPARATORS)
    return f"data: {text}\n\n".encode()


async def stream_answer(events: Events, *, kind: Kind, trace: Trace, include_usage: bool) -> AsyncGenerator[bytes, None]:
    """Yield the chunks of a streamed answer, `[DONE]` last. Exceptions of `events` pass through, so a broken stream has no `[DONE]`."""
    base = _head(trace, "chat.completion.chunk" if kind == "chat" else "text_completion")
    if include_usage:
        base["usage"] = None
    opened = False
    async with aclosing(events):
        async for event in events:
            if not opened and kind == "chat":
                yield sse({**base, "choices": [_choice(kind, {"role": "assistant", "content": ""})]})
            opened = True
            if isinstance(event, TokenEvent):
                if event.text:
                    yield sse({**base, "choices": [_choice(kind, {"content": event.text})]})
            elif isinstance(event, FinishEvent):
                last = _choice(kind, {}, finish_reason=event.finish_reason.value)
                yield sse({**base, "choices": [last], "timings": trace.timings()})
                if include_usage:
                    yield sse({**base, "choices": [], "usage": _usage(event.usage)})
    yield DONE


async def collect_answer(events: Events, *, kind: Kind, trace: Trace) -> dict[str, Any]:
    """Return a complete response."""
    parts: list[str] = []
    finish: FinishEvent | None = None
    async with aclosing(events):
        async for event in events:
            if isinstance(event, TokenEvent):
                parts.append(event.text)
            elif isinstance(event, FinishEvent):
                finish = event
    if finish is None:
        raise RuntimeError("a generation ended without a finish event")
    text, reason = "".join(parts), finish.finish_reason.value
    choice: dict[str, Any] = {"index": 0, "finish_reason": reason, "logprobs": None}
    if kind == "chat":
        choice["message"] = {"role": "assistant", "content": text, "refusal": None}
    else:
        choice["text"] = text
    head = _head(trace, "chat.completion" if kind == "chat" else "text_completion")
    return {**head, "choices": [choice], "usage": _usage(finish.usage), "timings": trace.timings()}


def _head(trace: Trace, object_: str) -> dict[str, Any]:
    return {"id": trace.id, "object": object_, "created": int(trace.created_at.timestamp()), "model": trace.endpoint}


def _choice(kind: Kind, delta: dict[str, str], *, finish_reason: str | None = None) -> dict[str, Any]:
    if kind == "chat":
        return {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
    return {"index": 0, "text": delta.get("content", ""), "finish_reason": finish_reason, "logprobs": None}


def _usage(usage: TokenUsage) -> dict[str, int]:
    return {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens, "total_tokens": usage.total_tokens}
