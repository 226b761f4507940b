"""Answers of `POST /v1/responses`: the response, and the events of its stream in OpenAI's order."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from backend.domain.json_values import JsonObject
from backend.domain.serving.protocol import FinishEvent, FinishReason, OpenEvent
from backend.gateway.answers import encode_stream, named_event, read_to_end
from backend.gateway.bodies.responses import ResponsesBody
from backend.gateway.dialects.blocks import Block, BlockReader, Change, Closed, Grown, Opened
from backend.gateway.errors import ApiError
from backend.gateway.logprobs import chat_logprobs
from backend.gateway.request import ApiExchange, Events

Document = JsonObject
Store = Callable[[Document], Awaitable[bool]]
"""Stores a complete response; returns whether it is stored."""
PREFIXES = {"text": "msg", "reasoning": "rs", "call": "fc"}
FAILURES = {429: "rate_limit_exceeded"}


@dataclass
class ResponseAnswer:
    """A response while its events arrive."""

    body: ResponsesBody
    exchange: ApiExchange
    store: Store | None = None
    reader: BlockReader = field(default_factory=BlockReader)
    ids: dict[int, str] = field(default_factory=dict)
    finish: FinishEvent | None = None
    error: ApiError | None = None

    async def collect(self, events: Events) -> Document:
        """Return the whole response."""
        self.finish = await read_to_end(events, self.reader.take)
        self._never_empty()
        return await self._complete()

    async def stream(self, events: Events) -> AsyncGenerator[bytes, None]:
        """Yield the server-sent events. An error before the first one is raised; a later one ends the stream as
        `response.failed`.
        """
        numbers = itertools.count()
        has_begun = False

        def event_of(kind: str, content: Document) -> bytes:
            return named_event(kind, {"sequence_number": next(numbers), **content})

        def changed(changes: Iterable[Change]) -> list[bytes]:
            return [event_of(kind, content) for change in changes for kind, content in self._events(change)]

        def encode(event: OpenEvent | FinishEvent) -> bytes:
            nonlocal has_begun
            parts = []
            if not has_begun:
                has_begun, begun = True, {"response": self.document()}
                parts += [event_of("response.created", begun), event_of("response.in_progress", begun)]
            parts += changed(self.reader.read(event))
            if isinstance(event, FinishEvent):
                self.finish = event
                parts += changed(self._never_empty())
            return b"".join(parts)

        try:
            async with aclosing(encode_stream(events, encode)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except ApiError as error:
            if not has_begun:
                raise
            self.error = error
            yield event_of("response.failed", {"response": self.document()})
            return
        document = await self._complete()
        yield event_of(f"response.{document['status']}", {"response": document})

    async def _complete(self) -> Document:
        """Return the response, stored first where the request asks for that."""
        if self.finish is None:
            raise RuntimeError("a generation ended without a finish event")
        document = self.document()
        if self.store is not None:
            document["store"] = await self.store(document)
        return document

    def document(self) -> Document:
        """Return the response as far as it is known."""
        body, finish = self.body, self.finish
        is_cut = finish is not None and finish.finish_reason is FinishReason.LENGTH
        status = (
            "failed" if self.error else "in_progress" if finish is None else "incomplete" if is_cut else "completed"
        )
        form = (
            body.text.format.model_dump(by_alias=True, exclude_none=True)
            if body.text and body.text.format
            else {"type": "text"}
        )
        choice = (
            body.tool_choice
            if isinstance(body.tool_choice, str)
            else body.tool_choice.model_dump()
            if body.tool_choice
            else "auto"
        )
        output = [self.item(block) for block in self.reader.blocks] if finish is not None or self.error else []
        error = self.error and {"code": FAILURES.get(self.error.status, "server_error"), "message": self.error.message}
        return {
            "id": self.exchange.id,
            "object": "response",
            "created_at": int(self.exchange.identity.created_at.timestamp()),
            "completed_at": None if finish is None else int(time.time()),
            "status": status,
            "background": False,
            "error": error or None,
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": self.exchange.endpoint,
            "output": output,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
            "store": self.store is not None,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "text": {"format": form},
            "tool_choice": choice,
            "tools": [tool.model_dump() for tool in body.tools or ()],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": "disabled",
            "usage": None if finish is None else _usage(finish, self.reader.reasoning_tokens),
        }

    def item(self, block: Block, *, is_open: bool = False) -> Document:
        """Return a block as an item of the output."""
        id_ = self.ids.setdefault(block.index, f"{PREFIXES[block.kind]}_{uuid4().hex[:24]}")
        is_cut = self.finish is None or self.finish.finish_reason is FinishReason.LENGTH
        is_last = block is self.reader.blocks[-1]
        status = "in_progress" if is_open else "incomplete" if is_cut and is_last and self._is_over else "completed"
        item = {"id": id_, "status": status}
        if block.kind == "call":
            call = {"call_id": block.call_id, "name": block.name, "arguments": "" if is_open else block.text}
            return item | {"type": "function_call"} | call
        content = [] if is_open else [self._part(block)]
        if block.kind == "reasoning":
            return item | {"type": "reasoning", "summary": [], "content": content}
        return item | {"type": "message", "role": "assistant", "content": content}

    @property
    def _is_over(self) -> bool:
        return self.finish is not None or self.error is not None

    def _part(self, block: Block, *, is_open: bool = False) -> Document:
        text = "" if is_open else block.text
        if block.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {
            "type": "output_text",
            "text": text,
            "annotations": [],
            "logprobs": [] if is_open else self._logprobs(block.tokens),
        }

    def _logprobs(self, tokens: Any) -> list[Document]:
        return list(chat_logprobs(tokens)["content"]) if self.body.wants_logprobs else []

    def _never_empty(self) -> list[Change]:
        """Give an answer without any token an empty text, as OpenAI does; return what that changes."""
        if self.reader.blocks:
            return []
        block = Block(0, "text")
        self.reader.blocks.append(block)
        return [Opened(block), Closed(block)]

    def _events(self, change: Change) -> Iterator[tuple[str, Document]]:
        """Yield the events of a change: their type and content."""
        block = change.block
        opened = self.item(block, is_open=True)
        place = {"item_id": opened["id"], "output_index": block.index}
        part = {**place, "content_index": 0}
        if isinstance(change, Opened):
            yield "response.output_item.added", {"output_index": block.index, "item": opened}
            if block.kind != "call":
                yield "response.content_part.added", {**part, "part": self._part(block, is_open=True)}
        elif isinstance(change, Grown):
            if block.kind == "call":
                yield "response.function_call_arguments.delta", {**place, "delta": change.text}
            elif block.kind == "reasoning":
                yield "response.reasoning_text.delta", {**part, "delta": change.text}
            else:
                yield (
                    "response.output_text.delta",
                    {**part, "delta": change.text, "logprobs": self._logprobs(change.tokens)},
                )
        else:
            if block.kind == "call":
                yield "response.function_call_arguments.done", {**place, "name": block.name, "arguments": block.text}
            elif block.kind == "reasoning":
                yield "response.reasoning_text.done", {**part, "text": block.text}
            else:
                yield (
                    "response.output_text.done",
                    {**part, "text": block.text, "logprobs": self._logprobs(block.tokens)},
                )
            if block.kind != "call":
                yield "response.content_part.done", {**part, "part": self._part(block)}
            yield "response.output_item.done", {"output_index": block.index, "item": self.item(block)}


def _usage(finish: FinishEvent, reasoning_tokens: int) -> Document:
    usage = finish.usage
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }
