"""OpenAI's answers, complete and streamed, from the events of one request; and the row of blocks (reasoning, text,
calls of tools) that the newer APIs are made of.
"""

from __future__ import annotations

import base64
import struct
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal

from pydantic_core import from_json, to_json

from backend.domain.json_values import JsonObject
from backend.domain.serving.protocol import (
    ChoiceEvent,
    EmbeddingEvent,
    FinishEvent,
    OpenEvent,
    PromptEvent,
    ScoredToken,
    TokenEvent,
    TokenLogprob,
    TokenUsage,
    ToolCallDelta,
)
from backend.domain.serving.token_offsets import TokenOffsets
from backend.gateway.errors import ApiError
from backend.gateway.request import ApiExchange, Events, Starting

Kind = Literal["chat", "text"]
_LINE_SEPARATORS = [(char.encode(), f"\\u{ord(char):04x}".encode()) for char in "\x85\u2028\u2029"]
DONE = b"data: [DONE]\n\n"
MAX_HELD = 2**20
"""Probabilities that all whole answers of this process may hold: half a gigabyte, four times the largest answer's."""


def sse(document: Mapping[str, object]) -> bytes:
    """Return one server-sent event.

    Line separators that JSON leaves unescaped are escaped, because many clients split a stream at them.
    """
    text = to_json(document, inf_nan_mode="null")
    for raw, escaped in _LINE_SEPARATORS:
        text = text.replace(raw, escaped)
    return b"data: " + text + b"\n\n"


def named_event(name: str, content: Mapping[str, object]) -> bytes:
    """Return one server-sent event with a name, which its data repeats as `type`."""
    return f"event: {name}\n".encode() + sse({"type": name, **content})


def comment(text: str) -> bytes:
    """Return a line that clients of server-sent events skip."""
    return f": {' '.join(text.split())}\n\n".encode()


async def encode_stream(
    events: Events, encode: Callable[[OpenEvent | FinishEvent], bytes]
) -> AsyncGenerator[bytes, None]:
    """Yield what `encode` makes of each event, and a comment for each sign of life; pass exceptions of `events` on."""
    async with aclosing(events):
        async for event in events:
            chunk = comment(f"starting {event.endpoint}") if isinstance(event, Starting) else encode(event)
            if chunk:
                yield chunk


async def read_to_end(events: Events, take: Callable[[OpenEvent], object]) -> FinishEvent:
    """Give each event to `take` and return the last; pass exceptions of `events` on."""
    finish: FinishEvent | None = None
    async with aclosing(events):
        async for event in events:
            if isinstance(event, FinishEvent):
                finish = event
            elif not isinstance(event, Starting):
                take(event)
    if finish is None:
        raise RuntimeError("a generation ended without a finish event")
    return finish


@dataclass
class AnswerForm:
    """The shape of an answer: of a chat or a text, with or without probabilities. `prompts` are the texts that an echo
    repeats.
    """

    kind: Kind
    prompts: Sequence[str | tuple[int, ...]] = ()
    n: int = 1
    echo: bool = False
    logprobs: bool = False
    include_usage: bool = False

    def prompt_text(self, choice: int, tokens: Sequence[ScoredToken]) -> str:
        """Return the text of a choice's prompt."""
        prompt = self.prompts[choice // self.n]
        return prompt if isinstance(prompt, str) else join_tokens(tokens)

    def offsets(self, choice: int) -> TokenOffsets:
        """Return the count of a choice's characters, from its prompt if that is a text that is repeated."""
        prompt = self.prompts[choice // self.n] if self.echo else None
        return TokenOffsets(prompt if isinstance(prompt, str) else None)

    def probabilities(
        self, tokens: Sequence[ScoredToken], offsets: TokenOffsets, *, prompt: Sequence[ScoredToken] = ()
    ) -> dict[str, object] | None:
        """Return `logprobs` of a choice's next tokens, after those of its prompt."""
        if not self.logprobs:
            return None
        if self.kind == "chat":
            return chat_logprobs(tokens)
        begins = offsets.of(token.encoded for token in prompt)
        if tokens:
            offsets.end_text()
        return text_logprobs([*prompt, *tokens], offsets=begins + offsets.of(token.encoded for token in tokens))


@dataclass
class ChoiceState:
    """One choice of an answer while its events arrive."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: dict[int, JsonObject] = field(default_factory=dict)
    prompt: list[ScoredToken] = field(default_factory=list)
    tokens: list[ScoredToken] = field(default_factory=list)
    reasoning_tokens: int = 0
    offsets: TokenOffsets | None = None
    finish_reason: str | None = None
    stop: str | int | None = None
    is_open: bool = False

    def add(self, event: TokenEvent) -> None:
        """Add new text, reasoning, calls and probabilities."""
        self.text.append(event.text)
        if event.reasoning is not None:
            self.reasoning.append(event.reasoning)
            self.reasoning_tokens += len(event.token_ids)
        self.tokens += event.logprobs or ()
        for delta in event.tool_calls or ():
            call = self.calls.setdefault(
                delta.index, {"id": delta.id, "type": "function", "function": {"name": delta.name, "arguments": ""}}
            )
            call["function"]["arguments"] += delta.arguments

    def message(self) -> JsonObject:
        """Return the assistant's message."""
        text = "".join(self.text)
        message: JsonObject = {
            "role": "assistant",
            "content": text if text or not self.calls else None,
            "refusal": None,
        }
        if self.reasoning:
            message["reasoning_content"] = "".join(self.reasoning)
        if self.calls:
            message["tool_calls"] = list(self.calls.values())
        return message


async def stream_answer(events: Events, *, form: AnswerForm, exchange: ApiExchange) -> AsyncGenerator[bytes, None]:
    """Yield the chunks of a streamed answer; the last holds `[DONE]`. Exceptions of `events` pass through, so a broken
    stream has none.
    """
    states: dict[int, ChoiceState] = {}
    end = b""  # sent at once with `[DONE]`, after the request has been accounted for

    def encode(event: OpenEvent | FinishEvent) -> bytes:
        nonlocal end
        base = _head(exchange, "chat.completion.chunk" if form.kind == "chat" else "text_completion")
        base |= {"usage": None} if form.include_usage else {}
        parts = _parts(event, states, form=form, exchange=exchange)
        chunks = b"".join(sse({**base, **part}) for part in parts)
        if not isinstance(event, FinishEvent):
            return chunks
        end = chunks
        return b""

    async with aclosing(encode_stream(events, encode)) as chunks:
        async for chunk in chunks:
            yield chunk
    yield end + DONE


def _parts(
    event: OpenEvent | FinishEvent, states: dict[int, ChoiceState], *, form: AnswerForm, exchange: ApiExchange
) -> Iterator[JsonObject]:
    """Yield what the chunks of an event hold beside their head."""
    if isinstance(event, PromptEvent):
        for number in range(event.choice, event.choice + event.choices):
            yield {
                "choices": [_prompt_choice(event, number, states.setdefault(number, ChoiceState(is_open=True)), form)]
            }
        return
    number = 0 if isinstance(event, FinishEvent) else event.choice
    state = states.setdefault(number, ChoiceState())
    if not state.is_open and form.kind == "chat":
        yield {"choices": [_delta(number, {"role": "assistant", "content": ""})]}
    state.is_open = True
    if isinstance(event, TokenEvent):
        choice = _token_choice(event, state, form)
        if choice is not None:
            yield {"choices": [choice]}
    elif isinstance(event, ChoiceEvent):
        state.finish_reason = event.finish_reason.value
        yield {"choices": [_end(number, form, event)]}
    elif isinstance(event, FinishEvent):
        if not state.finish_reason:
            yield {"choices": [_end(0, form, event)], **exchange.additions()}
        if form.include_usage:
            yield {"choices": [], "usage": _usage(event.usage, states)}


def _delta(number: int, delta: Mapping[str, object], logprobs: Mapping[str, object] | None = None) -> dict[str, object]:
    return {"index": number, "delta": delta, "finish_reason": None, "logprobs": logprobs}


def _end(number: int, form: AnswerForm, event: ChoiceEvent | FinishEvent) -> dict[str, object]:
    body: dict[str, object] = {"delta": {}} if form.kind == "chat" else {"text": ""}
    return {
        "index": number,
        **body,
        "finish_reason": event.finish_reason.value,
        "logprobs": None,
        **_stopped_by(event.stop),
    }


def _stopped_by(stop: str | int | None) -> dict[str, object]:
    """Return vLLM's field for the stop string or token that ended a choice."""
    return {} if stop is None else {"stop_reason": stop}


def _token_choice(event: TokenEvent, state: ChoiceState, form: AnswerForm) -> dict[str, object] | None:
    """Return the chunk's choice; None where nothing shows."""
    if event.reasoning is not None:
        state.reasoning_tokens += len(event.token_ids)
    state.offsets = state.offsets or TokenOffsets()
    logprobs = form.probabilities(event.logprobs, state.offsets) if event.logprobs else None
    if form.kind == "text":
        if not event.text and logprobs is None:
            return None
        return {"index": event.choice, "text": event.text, "finish_reason": None, "logprobs": logprobs}
    delta: dict[str, object] = {}
    if event.text or (logprobs is not None and not event.reasoning and not event.tool_calls):
        delta["content"] = event.text
    if event.reasoning:
        delta["reasoning_content"] = event.reasoning
    if event.tool_calls:
        delta["tool_calls"] = [_call_delta(call) for call in event.tool_calls]
    return _delta(event.choice, delta, logprobs) if delta else None


def _call_delta(call: ToolCallDelta) -> dict[str, object]:
    if call.name is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    return {
        "index": call.index,
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def _prompt_choice(event: PromptEvent, number: int, state: ChoiceState, form: AnswerForm) -> dict[str, object]:
    is_first = state.offsets is None
    state.offsets = state.offsets or form.offsets(number)
    prompt = form.prompts[number // form.n]
    text = join_tokens(event.tokens) if not isinstance(prompt, str) else prompt if is_first else ""
    logprobs = form.probabilities((), state.offsets, prompt=event.tokens)
    return {"index": number, "text": text, "finish_reason": None, "logprobs": logprobs}


@dataclass
class _Held:
    """Probabilities that the whole answers of this process hold until they are sent."""

    values: int = 0

    async def counted(self, events: Events, exchange: ApiExchange) -> Events:
        """Yield events, and count what is kept of them. Raises ApiError 429 where all would hold too much."""
        own = 0
        try:
            async with aclosing(events):
                async for event in events:
                    scored = (
                        event.tokens
                        if isinstance(event, PromptEvent)
                        else event.logprobs
                        if isinstance(event, TokenEvent)
                        else None
                    )
                    count = sum(1 + len(token.top) for token in scored or ())
                    own, self.values = own + count, self.values + count
                    if count and self.values > MAX_HELD:
                        message = (
                            "Answers with probabilities hold all the memory for them. Stream the answer, or try again"
                            " in a moment."
                        )
                        exchange.status, exchange.refusal = "refused", "answers_full"
                        raise ApiError(429, message, code=exchange.refusal, retry_after_s=1)
                    yield event
        finally:
            self.values -= own


HELD = _Held()


async def collect_answer(events: Events, *, form: AnswerForm, exchange: ApiExchange) -> dict[str, object]:
    """Return a complete response."""
    states: dict[int, ChoiceState] = {}

    def take(event: OpenEvent) -> None:
        state = states.setdefault(event.choice, ChoiceState())
        if isinstance(event, TokenEvent):
            state.add(event)
        elif isinstance(event, PromptEvent):
            state.prompt += event.tokens
            for number in range(event.choice + 1, event.choice + event.choices):
                states.setdefault(number, ChoiceState()).prompt = state.prompt  # one list
        elif isinstance(event, ChoiceEvent):
            state.finish_reason, state.stop = event.finish_reason.value, event.stop

    finish = await read_to_end(HELD.counted(events, exchange), take)
    states = states or {0: ChoiceState()}
    if len(states) == 1 and not states[min(states)].finish_reason:
        states[min(states)].stop = finish.stop
    choices = [
        _whole_choice(number, states[number], form, reason=finish.finish_reason.value) for number in sorted(states)
    ]
    head = _head(exchange, "chat.completion" if form.kind == "chat" else "text_completion")
    return {**head, "choices": choices, "usage": _usage(finish.usage, states), **exchange.additions()}


def _whole_choice(number: int, state: ChoiceState, form: AnswerForm, *, reason: str) -> dict[str, object]:
    choice: dict[str, object] = {
        "index": number,
        "finish_reason": state.finish_reason or reason,
        "logprobs": form.probabilities(state.tokens, form.offsets(number), prompt=state.prompt if form.echo else ()),
    }
    choice |= _stopped_by(state.stop)
    if form.kind == "chat":
        choice["message"] = state.message()
    else:
        choice["text"] = (form.prompt_text(number, state.prompt) if form.echo else "") + "".join(state.text)
    return choice


async def collect_embeddings(events: Events, *, exchange: ApiExchange, as_base64: bool) -> dict[str, object]:
    """Return the response of `/v1/embeddings`; base64 holds little-endian float32, as OpenAI's does."""
    data: list[dict[str, object]] = []

    def take(event: OpenEvent) -> None:
        if isinstance(event, EmbeddingEvent):
            packed = struct.pack(f"<{len(event.vector)}f", *event.vector)
            vector = base64.b64encode(packed).decode() if as_base64 else list(event.vector)
            data.append({"object": "embedding", "index": event.choice, "embedding": vector})

    tokens = (await read_to_end(events, take)).usage.prompt_tokens
    return {
        "object": "list",
        "data": data,
        "model": exchange.endpoint,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


async def collect_tokens(events: Events) -> dict[str, object]:
    """Return the response of `/v1/tokenize`, in vLLM's shape."""
    ids: list[int] = []
    texts: list[str] = []

    def take(event: OpenEvent) -> None:
        if isinstance(event, PromptEvent):
            ids.extend(token.token_id for token in event.tokens)
            texts.extend(sys.intern(token.token) for token in event.tokens)

    await read_to_end(events, take)
    return {"count": len(ids), "tokens": ids, "token_strs": texts}


def _head(exchange: ApiExchange, object_: str) -> dict[str, object]:
    head = {
        "id": exchange.id,
        "object": object_,
        "created": int(exchange.identity.created_at.timestamp()),
        "model": exchange.endpoint,
    }
    return head | ({"system_fingerprint": exchange.fingerprint} if exchange.fingerprint else {})


def _usage(usage: TokenUsage, states: dict[int, ChoiceState]) -> dict[str, object]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": sum(state.reasoning_tokens for state in states.values())},
    }


def chat_logprobs(tokens: Sequence[ScoredToken]) -> JsonObject:
    """Return `choices[].logprobs` of a chat completion."""
    return {
        "content": [_entry(token) | {"top_logprobs": [_entry(top) for top in token.top]} for token in tokens],
        "refusal": None,
    }


def _entry(token: TokenLogprob) -> dict[str, object]:
    return {"token": token.token, "logprob": token.logprob, "bytes": list(token.encoded)}


def text_logprobs(tokens: Sequence[ScoredToken], *, offsets: Sequence[int]) -> dict[str, object]:
    """Return `choices[].logprobs` of a text completion, given the character at which each token begins.

    The chosen token is among `top_logprobs`, as at OpenAI; a prompt's first token has neither.
    """
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [_alternatives(token) for token in tokens],
        "text_offset": list(offsets),
    }


def _alternatives(token: ScoredToken) -> dict[str, float | None] | None:
    if token.logprob is None:
        return None
    values: dict[str, float | None] = {}
    for entry in (*token.top, token):
        values.setdefault(entry.token, entry.logprob)
    return values


def join_tokens(tokens: Sequence[TokenLogprob]) -> str:
    """Return the text of consecutive tokens; bytes that are no text are replacement characters."""
    return b"".join(token.encoded for token in tokens).decode(errors="replace")


BlockKind = Literal["reasoning", "text", "call"]


@dataclass
class Block:
    """A part of an answer. `text` holds the arguments of a call, as JSON; `tokens` are the probabilities of a text
    where asked for.
    """

    index: int
    kind: BlockKind
    call_id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)
    tokens: list[ScoredToken] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Return the whole text."""
        return "".join(self.pieces)

    def arguments(self) -> JsonObject:
        """Return the arguments of a call; those that are complete where the answer was cut."""
        try:
            read = from_json(self.text or "{}", allow_partial=True)
        except ValueError:
            return {}
        return read if isinstance(read, dict) else {}


@dataclass(frozen=True)
class Opened:
    """A block begins."""

    block: Block


@dataclass(frozen=True)
class Grown:
    """A block has new text, and new probabilities."""

    block: Block
    text: str
    tokens: tuple[ScoredToken, ...] = ()


@dataclass(frozen=True)
class Closed:
    """A block is complete."""

    block: Block


Change = Opened | Grown | Closed


class BlockReader:
    """Reads the events of a single answer."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.reasoning_tokens = 0
        self._open: Block | None = None
        self._call: int | None = None

    def read(self, event: OpenEvent | FinishEvent) -> Iterator[Change]:
        """Yield what an event changes."""
        if isinstance(event, FinishEvent):
            yield from self._close()
        if not isinstance(event, TokenEvent):
            return
        if event.reasoning is not None:
            self.reasoning_tokens += len(event.token_ids)
        if event.reasoning:
            yield from self._grow("reasoning", event.reasoning)
        is_scored = bool(event.logprobs) and not event.reasoning and not event.tool_calls
        if event.text or is_scored:  # a token may be no whole character yet
            yield from self._grow("text", event.text, event.logprobs or ())
        for delta in event.tool_calls or ():
            yield from self._grow_call(delta)

    def take(self, event: OpenEvent) -> None:
        """Read an event of an answer that is sent whole."""
        for _ in self.read(event):
            pass

    def _grow(self, kind: BlockKind, text: str, tokens: tuple[ScoredToken, ...] = ()) -> Iterator[Change]:
        if self._open is None or self._open.kind != kind:
            yield from self._start(kind)
        yield from self._add(text, tokens)

    def _grow_call(self, delta: ToolCallDelta) -> Iterator[Change]:
        if self._open is None or self._open.kind != "call" or self._call != delta.index:
            yield from self._start("call", call_id=delta.id or "", name=delta.name or "")
            self._call = delta.index
        if delta.arguments:
            yield from self._add(delta.arguments)

    def _start(self, kind: BlockKind, *, call_id: str = "", name: str = "") -> Iterator[Change]:
        yield from self._close()
        self._open = Block(len(self.blocks), kind, call_id, name)
        self.blocks.append(self._open)
        yield Opened(self._open)

    def _add(self, text: str, tokens: tuple[ScoredToken, ...] = ()) -> Iterator[Change]:
        if self._open is not None:
            self._open.pieces.append(text)
            self._open.tokens += tokens
            yield Grown(self._open, text, tokens)

    def _close(self) -> Iterator[Change]:
        if self._open is not None:
            yield Closed(self._open)
        self._open = None
