"""HTTP to models on other servers with the OpenAI API: one request as the API's body, and its answer as the same
stream of events that a replica sends. The other server is not trusted: an answer of another shape is refused.

Redirects are not followed, proxies of the environment are not used, and names that resolve to a link-local or metadata
address are not called. Closing a stream early closes its connection.
"""

from __future__ import annotations

import asyncio
import json
import math
import socket
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.http_exceptions import HttpProcessingError
from pydantic_core import from_json

from backend.domain.json_values import JsonObject
from backend.domain.openai_servers import read_problem, read_retry_after
from backend.domain.serving.latency import decode_rate
from backend.domain.serving.protocol import (
    ANSWER_LIMIT,
    UNKNOWN,
    Accepted,
    ChatMessage,
    ChoiceEvent,
    Constraint,
    EmbeddingEvent,
    FinishEvent,
    FinishReason,
    GenerateRequest,
    GenerationErrorEvent,
    GenerationEvent,
    PromptEvent,
    SamplingParams,
    ScoredToken,
    ScoreEvent,
    Task,
    TokenEvent,
    TokenLogprob,
    TokenUsage,
    ToolCallDelta,
)
from backend.domain.serving.token_offsets import TokenOffsets, token_bytes
from backend.domain.serving.upstream import Upstream
from backend.domain.wording import format_bytes
from backend.errors import Unavailable
from backend.infra.keys import read_key
from backend.infra.openai_api.addresses import refuse_address
from backend.infra.openai_api.streams import DONE, StreamClient, next_data
from backend.infra.replicas import ReplicaLost, ReplicaRefused

CONNECT_S = 5.0
MAX_ANSWER_BYTES = 64 * 2**20
MAX_ERROR_BYTES = 64 * 2**10
PROBED_S = 10.0
MAX_PAUSE_S = 3600.0
UPSTREAM_LIMIT = "upstream_limit"
"""Error code: the other server has reached a limit of its own (429)."""
UNSUPPORTED = "unsupported_parameter"
MALFORMED = (ValueError, KeyError, TypeError, AttributeError, OverflowError)


class UpstreamClient:
    """HTTP client of any number of other servers with one connection pool. Belongs to one event loop."""

    def __init__(self) -> None:
        self._client = StreamClient(GuardedResolver())
        self._open: Counter[tuple[str, str]] = Counter()
        self._probed: dict[tuple[str, str], tuple[float, bool]] = {}

    async def stream(
        self,
        upstream: Upstream,
        *,
        name: str,
        request: GenerateRequest,
        on_accept: Callable[[Accepted], None] | None = None,
    ) -> AsyncGenerator[GenerationEvent, None]:
        """Yield the events of one generation, as `ReplicaClient.stream` does; `name` is what messages call the server.

        `on_accept` gets an estimate of the prompt's tokens, since only the end of an answer tells their number.
        """
        slot = (upstream.url, upstream.model)
        if self._open[slot] >= upstream.max_requests:
            raise ReplicaRefused(
                f"{name} answers {upstream.max_requests} requests already.", status=429, code="queue_full"
            )
        self._open[slot] += 1
        clock = Clock(upstream)
        events = self._call(upstream, name, request, clock, on_accept)
        try:
            async for event in events:
                yield event
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise ReplicaLost(f"{name} can't be reached ({type(error).__name__}).", reason="connection") from error
        except TimeoutError as error:
            if not clock.is_over:
                raise ReplicaLost(f"{name} did not answer in time.", reason="timeout") from error
            yield GenerationErrorEvent(
                message=f"The answer took longer than {upstream.answer_limit_s:g} s.", code=ANSWER_LIMIT
            )
        except (aiohttp.ClientError, HttpProcessingError, OSError) as error:
            raise ReplicaLost(f"{name} broke off ({type(error).__name__}).", reason="broken") from error
        finally:
            self._open[slot] -= 1
            await events.aclose()

    async def probe(self, upstream: Upstream, *, timeout_s: float) -> bool:
        """Return whether a server answered within the last ten seconds, or does now. A request that can't be billed."""
        slot, now = (upstream.url, upstream.model), time.monotonic()
        asked_at, answered = self._probed.get(slot, (-math.inf, False))
        if answered and now - asked_at < PROBED_S:
            return True
        try:
            answered = await self._client.is_there(f"{upstream.url}/models", key=_key(upstream), timeout_s=timeout_s)
        except (aiohttp.ClientError, TimeoutError, OSError, Unavailable):
            answered = False
        self._probed[slot] = (now, answered)
        return answered

    async def close(self) -> None:
        """Close the connection pool."""
        await self._client.close()

    async def _call(
        self,
        upstream: Upstream,
        name: str,
        request: GenerateRequest,
        clock: Clock,
        on_accept: Callable[[Accepted], None] | None,
    ) -> AsyncGenerator[GenerationEvent, None]:
        path, body = to_call(request, model=upstream.model)
        url = upstream.url.removesuffix("/v1") if path == "tokenize" else upstream.url
        try:
            key = _key(upstream)
        except Unavailable as error:
            raise ReplicaLost(f"The key for {name} can't be read here.", reason="key") from error
        async with clock.limit(upstream.first_token_s):
            response = await self._client.post(f"{url}/{path}", key=key, body=body, connect_s=CONNECT_S)
        async with response:
            if response.status != 200:
                async with asyncio.timeout(CONNECT_S):
                    problem = await response.content.read(MAX_ERROR_BYTES)
                raise _refusal(response, problem, name=name, upstream=upstream, task=request.task)
            if on_accept is not None:
                on_accept(Accepted(request.estimate_prompt()))
            if request.task is not Task.GENERATE or request.echo or response.content_type == "application/json":
                async with clock.limit(upstream.answer_limit_s):
                    answer = await _read_whole(response, name)
                for event in _whole(answer, request, name):
                    yield event
                return
            async for event in _read_stream(response, upstream, Reader(request), clock, name):
                yield event


class Clock:
    """The time that an answer may take. It limits single waits, since a limit around a whole stream would end its
    reader's own waits.
    """

    def __init__(self, upstream: Upstream) -> None:
        self._ends = time.monotonic() + upstream.answer_limit_s

    @property
    def is_over(self) -> bool:
        """Return whether the answer's time has passed."""
        return time.monotonic() >= self._ends

    def limit(self, seconds: float) -> asyncio.Timeout:
        """Return a limit of that many seconds, or what is left."""
        return asyncio.timeout(min(seconds, self._ends - time.monotonic()))


class GuardedResolver(AbstractResolver):
    """Resolves names, and refuses those of addresses that are never called, also where a name's changes later."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a host. Raises OSError."""
        addresses = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        results: list[ResolveResult] = []
        for kind, _, protocol, _, address in addresses:
            refuse_address(str(address[0]))
            results.append(
                ResolveResult(
                    hostname=host,
                    host=str(address[0]),
                    port=int(address[1]),
                    family=kind,
                    proto=protocol,
                    flags=socket.AI_NUMERICHOST,
                )
            )
        return results

    async def close(self) -> None:
        """Do nothing: there is nothing to release."""


async def _read_stream(
    response: aiohttp.ClientResponse, upstream: Upstream, reader: Reader, clock: Clock, name: str
) -> AsyncGenerator[GenerationEvent, None]:
    """Yield the events of server-sent events. Comments keep a connection alive and count as nothing."""
    limit_s = upstream.first_token_s
    lines = response.content
    while True:
        try:
            async with clock.limit(limit_s):
                data = await next_data(lines)
        except (ValueError, HttpProcessingError) as error:
            raise ReplicaLost(f"{name} sent a line that is too long.", reason="protocol") from error
        if data is None or data == DONE:
            if not reader.is_complete:
                raise _incomplete(reader, name, is_closed=data is not None)
            yield reader.finish()
            return
        for event in _parse(data, reader, name):
            limit_s = upstream.between_tokens_s
            yield event


def _parse(data: bytes, reader: Reader, name: str) -> list[GenerationEvent]:
    try:
        chunk = parse_json(data)
        if isinstance(chunk, dict) and chunk.get("error"):
            raise ReplicaLost(f"{name} failed: {read_problem(chunk).message}", reason="failed")
        return list(reader.read(chunk))
    except MALFORMED as error:
        raise ReplicaLost(f"{name} sent an event that is not part of an answer.", reason="protocol") from error


async def _read_whole(response: aiohttp.ClientResponse, name: str) -> dict[str, object]:
    pieces, size = [], 0
    async for piece in response.content.iter_chunked(1 << 16):
        size += len(piece)
        if size > MAX_ANSWER_BYTES:
            raise ReplicaLost(f"{name} sent more than {format_bytes(MAX_ANSWER_BYTES)}.", reason="protocol")
        pieces.append(piece)
    try:
        answer = parse_json(b"".join(pieces))
    except ValueError as error:
        raise ReplicaLost(f"{name} sent no JSON.", reason="protocol") from error
    if not isinstance(answer, dict):
        raise ReplicaLost(f"{name} sent no answer.", reason="protocol")
    return answer


def _whole(answer: JsonObject, request: GenerateRequest, name: str) -> Iterator[GenerationEvent]:
    if answer.get("error"):
        raise ReplicaLost(f"{name} failed: {read_problem(answer).message}", reason="failed")
    try:
        if request.task is Task.SCORE:
            yield from list(read_scores(answer))
        elif request.task is Task.EMBED:
            yield from list(read_embeddings(answer))
        elif request.task is Task.TOKENIZE:
            yield from list(read_tokens(answer))
        else:
            reader = Reader(request)
            yield from list(reader.read_whole(answer))
            if not reader.is_complete:
                raise _incomplete(reader, name, is_closed=True)
            yield reader.finish()
    except MALFORMED as error:
        raise ReplicaLost(f"{name} sent an answer of another shape.", reason="protocol") from error


def _incomplete(reader: Reader, name: str, *, is_closed: bool) -> ReplicaRefused | ReplicaLost:
    """Return what an answer means that lacks choices: a server that closed it after fewer of them does not know `n`."""
    ended, total = len(reader.reasons), reader.request.num_choices
    if not is_closed or not ended:
        return ReplicaLost(f"{name} stopped in the middle of its answer.", reason="broken")
    return ReplicaRefused(
        f"{name} gave {ended} of {total} answers: ask for each by itself.", status=400, code=UNSUPPORTED, field="n"
    )


def _key(upstream: Upstream) -> str | None:
    return read_key(key_env=upstream.key_env, key_file=upstream.key_file)


def _refusal(
    response: aiohttp.ClientResponse, body: bytes, *, name: str, upstream: Upstream, task: Task
) -> ReplicaRefused | ReplicaLost:
    """Return what an answer other than 200 means for the client: its own mistake, a limit, or the server's fault."""
    status, problem = response.status, read_problem(body)
    if status == 429:
        pause_s = read_retry_after(response.headers.get("retry-after", ""), most_s=MAX_PAUSE_S)
        return ReplicaRefused(
            f"{name} has reached its limit. {problem.message}".strip(),
            status=429,
            code=UPSTREAM_LIMIT,
            retry_after_s=math.ceil(pause_s) or None,
        )
    if status in (400, 413, 415, 422):
        return ReplicaRefused(
            problem.message or f"{name} refuses the request ({status}).",
            status=status,
            code=problem.code or "invalid_value",
            field=problem.field or None,
        )
    if status in (401, 403):
        return ReplicaLost(f"{name} refuses the key that it was given ({status}).", reason="key")
    if status in (404, 405) and task is not Task.GENERATE:
        kind = {Task.EMBED: "embeddings", Task.SCORE: "scores"}.get(task, "tokens")
        return ReplicaRefused(f"{name} returns no {kind} ({status}).", status=400, code=UNSUPPORTED, field="model")
    if status == 404:
        return ReplicaLost(
            f"{name} does not serve {upstream.model!r}, or not this kind of request (404).", reason="not_found"
        )
    return ReplicaLost(f"{name} answered with status {status}.", reason="failed")


def to_call(request: GenerateRequest, *, model: str) -> tuple[str, dict[str, object]]:
    """Return the path below `/v1` and the body of a request.

    Fields outside OpenAI's API (`top_k`, `min_p`, `ignore_eos`, `continue_final_message`, `structured_outputs`, ...)
    are sent where a request sets them, in vLLM's names; a server that does not know them refuses or ignores them.
    """
    if request.task is Task.EMBED:
        return "embeddings", {"model": model, "input": _prompts(request), "encoding_format": "float"}
    if request.task is Task.SCORE:
        first, second = zip(*(request.pairs or ()), strict=True)
        return "score", {"model": model, "text_1": list(first), "text_2": list(second)}
    if request.task is Task.TOKENIZE:
        subject = (
            {"messages": _messages(request), "tools": _tools(request)}
            if request.messages
            else {"prompt": _prompts(request)[0]}
        )
        return "tokenize", {"model": model, **{key: value for key, value in subject.items() if value is not None}}
    body = {"model": model, **_sampling(request.params), **({"n": request.n} if request.n > 1 else {})}
    if not request.echo:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    if request.messages is None:
        body |= {"prompt": _prompts(request)} | ({"echo": True} if request.echo else {})
        return "completions", body | ({} if request.params.logprobs is None else {"logprobs": request.params.logprobs})
    if request.params.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.params.logprobs}
    if request.continue_final:
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    if request.template_variables:
        body["chat_template_kwargs"] = request.template_variables
    if request.effort is not None:
        body["reasoning_effort"] = request.effort
    return "chat/completions", body | {"messages": _messages(request)} | _tool_fields(request)


def _prompts(request: GenerateRequest) -> Any:
    """Return one prompt as a text or its ids, several as a list of them."""
    if request.prompts is None:
        return [request.prompt if request.token_ids is None else list(request.token_ids)]
    prompts = [prompt if isinstance(prompt, str) else list(prompt) for prompt in request.prompts]
    return prompts[0] if len(prompts) == 1 else prompts


def _messages(request: GenerateRequest) -> list[JsonObject]:
    return [_message(message) for message in request.messages or ()]


def _message(message: ChatMessage) -> JsonObject:
    body = message.as_dict()
    if "tool_calls" in body:
        body["tool_calls"] = [_called(call, number) for number, call in enumerate(body["tool_calls"])]
    return body


def _called(call: JsonObject, number: int) -> JsonObject:
    function = dict(call.get("function") or call)
    arguments = function.get("arguments", "{}")
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {
        "id": call.get("id") or f"call_{number}",
        "type": "function",
        "function": {"name": function.get("name", ""), "arguments": text},
    }


def _tools(request: GenerateRequest) -> list[JsonObject] | None:
    return list(request.tools) if request.tools else None


def _tool_fields(request: GenerateRequest) -> dict[str, object]:
    tools = _tools(request)
    if tools is None:
        return {}
    choice = request.tool_choice
    named = {"type": "function", "function": {"name": choice.name}} if choice.name else choice.mode
    return {"tools": tools, "tool_choice": named} | (
        {} if request.parallel_tool_calls else {"parallel_tool_calls": False}
    )


def _sampling(params: SamplingParams) -> JsonObject:
    body: dict[str, object] = {"temperature": params.temperature, "top_p": params.top_p}
    body |= params.model_dump(mode="json", exclude_defaults=True, exclude={"logit_bias", "logprobs", "constraint"})
    if params.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in params.logit_bias}
    return body | (_form(params.constraint) if params.constraint else {})


def _form(constraint: Constraint) -> dict[str, object]:
    if constraint.kind == "json_object":
        return {"response_format": {"type": "json_object"}}
    if constraint.kind == "json_schema":
        schema = {"name": "answer", "schema": json.loads(constraint.value), "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    return {"structured_outputs": {"regex" if constraint.kind == "regex" else "grammar": constraint.value}}


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
