"""Answers of an OpenAI API as the events of a replica. The other server is not trusted: whatever has another shape
raises ValueError.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from pydantic_core import from_json

from backend.domain.json_values import JsonObject
from backend.domain.serving.latency import decode_rate
from backend.domain.serving.protocol import (
    UNKNOWN,
    ChoiceEvent,
    EmbeddingEvent,
    FinishEvent,
    FinishReason,
    GenerateRequest,
    GenerationEvent,
    PromptEvent,
    ScoredToken,
    ScoreEvent,
    TokenEvent,
    TokenLogprob,
    TokenUsage,
    ToolCallDelta,
)
from backend.domain.serving.token_offsets import TokenOffsets, token_bytes

REASONS = {
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
}
MAX_COUNT = 2**31 - 1  # largest integer of the database


@dataclass
class Reader:
    """Reads the chunks of one answer. A chunk with new text counts as one token until the server's count."""

    request: GenerateRequest
    started: float = field(default_factory=time.perf_counter)
    first: float | None = None
    counts: dict[int, int] = field(default_factory=dict)
    reasons: dict[int, FinishReason] = field(default_factory=dict)
    usage: TokenUsage | None = None

    @property
    def is_complete(self) -> bool:
        """Return whether every choice has ended."""
        return len(self.reasons) >= self.request.num_choices

    def read(self, chunk: JsonObject) -> Iterator[GenerationEvent]:
        """Yield the events of one chunk of a stream."""
        if isinstance(counted := chunk.get("usage"), dict):
            self.usage = read_usage(counted)
        for choice in _list(chunk.get("choices")):
            number = _number(choice)
            if number >= self.request.num_choices:
                raise ValueError("a choice that was not asked for")
            delta = choice.get("delta") if self.request.messages is not None else {"content": choice.get("text")}
            event = self._token(number, delta or {}, choice.get("logprobs"))
            if event is not None:
                yield event
            if (reason := choice.get("finish_reason")) is not None and number not in self.reasons:
                self.reasons[number] = REASONS.get(str(reason), FinishReason.STOP)
                if self.request.num_choices > 1:
                    yield ChoiceEvent(choice=number, finish_reason=self.reasons[number])

    def read_whole(self, answer: JsonObject) -> Iterator[GenerationEvent]:
        """Yield the events of an answer that came in one piece."""
        for choice in _list(answer.get("choices")):
            if self.request.messages is not None:
                choice["delta"] = choice.get("message")
            if self.request.echo:
                yield from self._split_echo(choice)
        yield from self.read(answer)

    def finish(self) -> FinishEvent:
        """Return the last event."""
        now, generated = time.perf_counter(), sum(self.counts.values())
        usage = self.usage or TokenUsage(prompt_tokens=self.request.estimate_prompt(), completion_tokens=generated)
        seconds = now - self.first if self.first is not None else 0.0
        return FinishEvent(
            finish_reason=next(reversed(self.reasons.values()), FinishReason.STOP),
            usage=usage,
            ttft_ms=None if self.first is None else (self.first - self.started) * 1000,
            tok_per_sec=decode_rate(usage.completion_tokens - 1, seconds),
        )

    def _token(self, number: int, delta: JsonObject, logprobs: Any) -> TokenEvent | None:
        text = str(delta.get("content") or "")
        reasoning = delta.get("reasoning_content") or delta.get("reasoning") or None
        calls = tuple(_call(entry, at) for at, entry in enumerate(_list(delta.get("tool_calls"))))
        scored = read_logprobs(logprobs)
        if not (text or reasoning or calls or scored):
            return None
        self.first = self.first or time.perf_counter()
        count = len(scored) or 1
        before = self.counts.get(number, 0)
        self.counts[number] = before + count
        return TokenEvent(
            text=text,
            token_ids=(UNKNOWN,) * count,
            index=before,
            choice=number,
            logprobs=scored or None,
            reasoning=str(reasoning) if reasoning else None,
            tool_calls=calls or None,
        )

    def _split_echo(self, choice: JsonObject) -> Iterator[GenerationEvent]:
        """Yield the prompt that a text begins with, and leave the rest in the choice."""
        number = _number(choice)
        prompts = self.request.prompts or ()
        prompt = prompts[min(number // self.request.n, len(prompts) - 1)]
        text, scored = str(choice.get("text") or ""), read_logprobs(choice.get("logprobs"))
        count = _prompt_length(prompt, scored)
        shown = prompt if isinstance(prompt, str) else "".join(token.token for token in scored[:count])
        choice["text"] = text.removeprefix(shown)
        if scored:
            choice["logprobs"] = scored[count:]
        yield PromptEvent(tokens=scored[:count] or (ScoredToken(token_id=UNKNOWN, token=shown),), choice=number)


def _prompt_length(prompt: str | Sequence[int], scored: Sequence[ScoredToken]) -> int:
    """Return how many of the tokens belong to the prompt."""
    if not isinstance(prompt, str):
        return len(prompt)
    offsets = TokenOffsets(prompt)
    for count, token in enumerate(scored):
        if offsets.is_complete:
            return count
        offsets.of([token.encoded])
    if offsets.is_complete:
        return len(scored)
    return sum(length < len(prompt) for length in accumulate((len(token.token) for token in scored[:-1]), initial=0))


def parse_json(document: bytes) -> Any:
    """Return a document. Raises ValueError for what is none, also for NaN, a lone surrogate and deep nesting."""
    return from_json(document, allow_inf_nan=False)


def read_usage(counted: JsonObject) -> TokenUsage:
    """Return the counts of an answer; 0 where one is not a number that can be stored."""

    def count(value: Any) -> int:
        return value if isinstance(value, int) and 0 <= value <= MAX_COUNT else 0

    details = counted.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    return TokenUsage(
        prompt_tokens=count(counted.get("prompt_tokens")),
        completion_tokens=count(counted.get("completion_tokens")),
        cached_tokens=count(cached),
    )


def read_logprobs(logprobs: Any) -> tuple[ScoredToken, ...]:
    """Return scored tokens from either of OpenAI's shapes, or those that were read before."""
    if isinstance(logprobs, tuple):
        return logprobs
    if not isinstance(logprobs, dict):
        return ()
    if isinstance(content := logprobs.get("content"), list):
        return tuple(
            ScoredToken(
                **_scored(entry), top=tuple(TokenLogprob(**_scored(top)) for top in _list(entry.get("top_logprobs")))
            )
            for entry in _list(content)
        )
    tokens, values = logprobs.get("tokens") or [], logprobs.get("token_logprobs") or []
    tops = logprobs.get("top_logprobs") or [None] * len(tokens)
    return tuple(_scored_text(token, value, top) for token, value, top in zip(tokens, values, tops, strict=False))


def _scored(entry: JsonObject) -> JsonObject:
    token, raw = str(entry.get("token", "")), entry.get("bytes")
    differs = isinstance(raw, list) and list(token.encode()) != raw
    return {
        "token_id": UNKNOWN,
        "token": token,
        "logprob": entry.get("logprob"),
        "raw": tuple(raw) if differs and raw else None,
    }


def _scored_text(token: Any, value: Any, top: Any) -> ScoredToken:
    alternatives = sorted(top.items(), key=lambda pair: -float(pair[1] or 0)) if isinstance(top, dict) else []
    best = tuple(TokenLogprob(token_id=UNKNOWN, token=str(name), logprob=logprob) for name, logprob in alternatives)
    shown, encoded = str(token), token_bytes(str(token))
    raw = None if encoded == shown.encode(errors="replace") else tuple(encoded)
    return ScoredToken(token_id=UNKNOWN, token=shown, logprob=value, raw=raw, top=best)


def read_embeddings(answer: JsonObject) -> Iterator[GenerationEvent]:
    """Yield the vectors of an answer of `/embeddings`, and the last event."""
    for entry in _list(answer.get("data")):
        yield EmbeddingEvent(vector=tuple(float(value) for value in entry["embedding"]), choice=_number(entry))
    usage = answer.get("usage")
    yield FinishEvent(finish_reason=FinishReason.STOP, usage=read_usage(usage if isinstance(usage, dict) else {}))


def read_scores(answer: JsonObject) -> Iterator[GenerationEvent]:
    """Yield the scores of an answer of `/score`, and the last event."""
    for entry in _list(answer.get("data")):
        yield ScoreEvent(score=float(entry["score"]), choice=_number(entry))
    usage = answer.get("usage")
    yield FinishEvent(finish_reason=FinishReason.STOP, usage=read_usage(usage if isinstance(usage, dict) else {}))


def read_tokens(answer: JsonObject) -> Iterator[GenerationEvent]:
    """Yield the tokens of an answer of `/tokenize`, and the last event."""
    ids = [int(token) for token in answer["tokens"]]
    texts = answer.get("token_strs") or [""] * len(ids)
    yield PromptEvent(
        tokens=tuple(ScoredToken(token_id=id_, token=str(text)) for id_, text in zip(ids, texts, strict=True))
    )
    yield FinishEvent(finish_reason=FinishReason.STOP, usage=TokenUsage(prompt_tokens=len(ids)))


def _call(entry: JsonObject, position: int) -> ToolCallDelta:
    function = entry.get("function") or {}
    name = function.get("name")
    return ToolCallDelta(
        index=int(entry.get("index", position)),
        id=str(entry["id"]) if entry.get("id") else None,
        name=str(name) if name else None,
        arguments=str(function.get("arguments") or ""),
    )


def _number(choice: JsonObject) -> int:
    number = choice.get("index", 0)
    if not isinstance(number, int) or number < 0:
        raise ValueError("a choice without a number")
    return number


def _list(value: Any) -> list[JsonObject]:
    """Return a list of objects; an empty one for nothing."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise ValueError("no list of objects")
    return value
