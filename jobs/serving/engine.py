"""Engine interface, and the parts that engines share: text of tokens as it streams, without partial characters or
partial stop strings; turns between tenants, limits, stop strings, timing.

An engine takes token ids and sampling parameters and calls back with events. Engines compute tokens; text, stop
conditions and token counts are handled here, in `Generation`.

A tenant is an account of the gateway's clients, or where no key is needed an address with the user or job that it
names, by a name without meaning. Requests that reach a replica without one share the empty name, which has no limit.
"""

from __future__ import annotations

import codecs
import itertools
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tokenizers.decoders import DecodeStream
from transformers import AutoConfig, GenerationConfig

from backend.domain.serving.latency import decode_rate
from backend.domain.serving.protocol import (
    CONTEXT_EXCEEDED,
    FinishEvent,
    FinishReason,
    GenerationErrorEvent,
    GenerationEvent,
    SamplingParams,
    ScoredToken,
    TokenEvent,
    TokenLogprob,
    TokenUsage,
)
from backend.domain.tokenizers.pieces import PieceForm
from backend.errors import InvalidInput, Unavailable
from jobs.modeling.chat import turn_end
from jobs.modeling.checkpoints import base_folder_of, check_folder, is_adapter
from jobs.modeling.loglikelihood import context_of_config
from jobs.modeling.tokenizers import piece_form
from jobs.modeling.unusable import UNUSABLE
from jobs.serving.adapters import LoadedAdapter
from jobs.serving.sampling import Matcher, SamplingState

PROMPT_TAIL = 6
# tokens; a byte-level character takes at most 4, so bytes still undecodable after 8 are shown as replacement characters
MAX_PENDING = 8
REPLACEMENT = "\ufffd"


class TokenDecoder(Protocol):
    """Interface of a fast tokenizer for detokenization."""

    @property
    def backend_tokenizer(self) -> Any:
        """Return the `tokenizers.Tokenizer`."""


class TextStream:
    """Incremental text of one completion, one decoding step per token (tokenizers' DecodeStream).

    `marks` are special tokens that show as their text (`[TOOL_CALLS]`); others don't show. Stop strings end nothing in
    what is added while `can_stop` is False. Tokens of single bytes are joined to characters here: the library's
    decoders show a whole run of them as replacement characters where one of its characters is incomplete.
    """

    def __init__(
        self,
        decoder: TokenDecoder,
        stop: tuple[str, ...] = (),
        *,
        prompt: Sequence[int] = (),
        marks: Mapping[int, str] | None = None,
    ) -> None:
        self._tokenizer = decoder.backend_tokenizer
        self._stop = stop
        self._marks = marks or {}
        self._held = ""  # decoded, but possibly the beginning of a stop string
        self.stopped, self.can_stop = False, True
        self.stop: str | None = None  # the string that ended the text
        self._byte_of = _byte_tokens(self._tokenizer)
        self._letter = next((token for token, byte in self._byte_of.items() if byte == b"a"), None)
        self._character = codecs.getincrementaldecoder("utf-8")("replace")
        self._is_in_bytes = False
        # The stream opens on the prompt's end: decoded alone, a first token would lose the space that some tokenizers
        # put before it.
        self._open(list(prompt[-PROMPT_TAIL:]))

    def push(self, token_ids: list[int]) -> str:
        """Add tokens; return the text that can no longer change. After a stop string `stopped` is True."""
        if self.stopped:
            return ""
        return self._release("".join(self._step(token) for token in token_ids), final=False)

    def finish(self) -> str:
        """Return the withheld text at the end of the tokens."""
        if self.stopped:
            return ""
        return self._release(self._flush(), final=True)

    def _open(self, context: list[int]) -> None:
        # The library repeats a context that ends within a character. A letter stands for each byte of one.
        context = [token if self._letter is None or token not in self._byte_of else self._letter for token in context]
        while context and self._decode(context).endswith(REPLACEMENT):
            context.pop()
        self._context, self._pending = context, list[int]()
        self._stream = DecodeStream(ids=context, skip_special_tokens=True)

    def _step(self, token: int) -> str:
        if (mark := self._marks.get(token)) is not None:
            return self._flush() + mark
        if (byte := self._byte_of.get(token)) is not None:
            return self._step_byte(token, byte)
        broken = ""
        if self._is_in_bytes:
            broken, self._is_in_bytes = self._character.decode(b"", final=True), False
            self._open(self._context)
        self._pending.append(token)
        try:
            text = self._stream.step(self._tokenizer, token)
        except Exception:  # the library raises a bare Exception where text before the token changes with it
            return broken + self._flush()
        if text is None:
            return broken + (self._flush() if len(self._pending) >= MAX_PENDING else "")
        self._context, self._pending = [*self._context, *self._pending][-PROMPT_TAIL:], []
        return broken + text

    def _step_byte(self, token: int, byte: bytes) -> str:
        before = "" if self._is_in_bytes else self._flush()
        self._is_in_bytes = True
        self._context = [*self._context, token][-PROMPT_TAIL:]
        return before + self._character.decode(byte)

    def _flush(self) -> str:
        """Return the text of the pending tokens, complete or not, and continue after them."""
        broken = self._character.decode(b"", final=True)
        pending, context = self._pending, self._context
        if not pending:
            return broken
        before, after = self._decode(context), self._decode([*context, *pending])
        self._open([*context, *pending][-PROMPT_TAIL:])
        return broken + after[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def _release(self, text: str, *, final: bool) -> str:
        if not self._stop or not self.can_stop:
            return text
        text = self._held + text
        self._held = ""
        matches = [(position, stop) for stop in self._stop if (position := text.find(stop)) >= 0]
        if matches:
            position, self.stop = min(matches)
            self.stopped = True
            return text[:position]
        if final:
            return text
        keep = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _byte_tokens(tokenizer: Any) -> dict[int, bytes]:
    """Return the tokens of a byte-fallback tokenizer that stand for one byte each; none of any other."""
    decoder = tokenizer.decoder
    if decoder is None or not PieceForm.of_decoder(decoder.__getstate__().decode()).byte_fallback:
        return {}
    ids = {byte: tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in range(256)}
    return {token: bytes([byte]) for byte, token in ids.items() if token is not None}


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest suffix of `text` that is a prefix of `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-size:]):
            return size
    return 0


class TokenTexts:
    """The text of single tokens, as answers with probabilities show them."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._form = piece_form(tokenizer)
        self._special = {
            index: token.content for index, token in tokenizer.added_tokens_decoder.items() if token.special
        }
        self._text = lru_cache(maxsize=1 << 16)(self._read)

    def scored(self, token: int, logprob: float | None, top: Sequence[tuple[int, float]] = ()) -> ScoredToken:
        """Return a token with its probability and the most likely ones at its position."""
        text, raw = self._text(token)
        alternatives = []
        for other, value in top:
            other_text, other_raw = self._text(other)
            alternatives.append(
                TokenLogprob.model_construct(token_id=other, token=other_text, logprob=value, raw=other_raw)
            )
        return ScoredToken.model_construct(
            token_id=token, token=text, logprob=logprob, raw=raw, top=tuple(alternatives)
        )

    def _read(self, token: int) -> tuple[str, tuple[int, ...] | None]:
        """Return a token's text; for bytes that are no text, as OpenAI does, `bytes:\\xc3` and the bytes."""
        if token in self._special:
            return self._special[token], None
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:  # the network's vocabulary may be padded beyond the tokenizer's
            return "", ()
        encoded = self._form.bytes_of(piece)
        try:
            return encoded.decode(), None
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in encoded), tuple(encoded)


T = TypeVar("T")


def in_turn(waiting: Iterable[tuple[str, T]], *, running: Counter[str], most: int) -> list[T]:
    """Return the waiting requests, given by tenant in order of arrival, in the order in which they get places.

    The tenant with the fewest requests at work is next, counting those that come before; among equals, who came first.
    A tenant with `most` at work waits: the place that it leaves is for the first request of another.

    >>> in_turn([("a", 1), ("a", 2), ("b", 3)], running=Counter(a=1), most=15)
    [3, 1, 2]
    """
    ahead = Counter(running)
    ranked: list[tuple[int, T]] = []
    for tenant, request in waiting:
        if not tenant or ahead[tenant] < most:
            ranked.append((ahead[tenant], request))
        ahead[tenant] += 1
    return [request for _, request in sorted(ranked, key=lambda pair: pair[0])]


def most_running(max_running: int) -> int:
    """Return the requests that one tenant may have at work at once: all but one place, where there are several."""
    return max(1, max_running - 1)


def most_open(max_running: int, max_waiting: int) -> int:
    """Return the requests that one tenant may have at work and waiting: a quarter of the queue is for others."""
    return max_running + max_waiting - max_waiting // 4


OnEvent = Callable[[GenerationEvent], None]
RATE_WINDOW_S = 5.0


class PromptTooLong(InvalidInput):
    """The prompt leaves no room for a single token in the network's context."""

    code = CONTEXT_EXCEEDED


class QueueFull(Unavailable):
    """The engine's queue is full."""

    code = "queue_full"


def refuse_full(tenants: Sequence[str], tenant: str, *, max_running: int, max_waiting: int) -> None:
    """Raise QueueFull if open requests of these tenants leave no place for another one of `tenant`. Without requests
    that run, those of `tenants` wait.
    """
    state = "being answered or waiting" if max_running else "waiting"
    for count, most, whose in (
        (len(tenants), max_running + max_waiting, ""),
        (tenants.count(tenant) if tenant else 0, most_open(max_running, max_waiting), " of this account"),
    ):
        if count >= most:
            raise QueueFull(f"{count} requests{whose} are already {state}.", remedy="Try again in a moment.")


@dataclass(frozen=True)
class EngineStats:
    """Counters of an engine. `tokens_per_second` over the last seconds; `steps` and tokens since the start."""

    running: int
    waiting: int
    tokens_per_second: float
    steps: int
    generated_tokens: int
    last_token_age_s: float | None
    cache_ratio: float | None = None  # used share of the KV cache; None without a cache of pages
    drafted_tokens: int | None = None  # None without a draft
    accepted_tokens: int | None = None


class TextMatcher(Matcher, Protocol):
    """A constraint that knows when a text is complete: `budget` is the most tokens it may have, `complete_at` its
    number of tokens.
    """

    budget: int | None
    complete_at: int | None


@dataclass(frozen=True)
class Choice:
    """Properties of one of a request's answers: its number, its repetition of the same prompt, its constraint, special
    tokens that show in its text, the tokens that another replica generated of it, its adapter, and the account that
    asks (`turns.py`).
    """

    number: int = 0
    repetition: int = 0
    matcher: TextMatcher | None = None
    marks: Mapping[int, str] | None = None
    begun: tuple[int, ...] = ()
    adapter: LoadedAdapter | None = None
    tenant: str = ""


FIRST = Choice()


class Handle(Protocol):
    """A submitted request."""

    def cancel(self) -> None:
        """Stop generating within one step. Safe to call twice, from any thread, and after the end."""


@dataclass(frozen=True)
class NetworkLimits:
    """Limits of a network."""

    context_length: int
    vocab_size: int
    end_ids: frozenset[int]

    def check(self, ids: Sequence[int], params: SamplingParams) -> int:
        """Return how many tokens may be generated, or raise for an invalid prompt."""
        self.check_ids(ids)
        self.check_params(params)
        if len(ids) >= self.context_length:
            raise PromptTooLong(
                f"The prompt has {len(ids)} tokens; this model's context holds {self.context_length}, answer included.",
                remedy="Shorten the prompt or the conversation.",
                field="messages",
            )
        room = self.context_length - len(ids)
        return room if params.max_tokens is None else min(params.max_tokens, room)

    def check_ids(self, ids: Sequence[int]) -> None:
        """Raise for a prompt without tokens, and for one with a token that the network does not have."""
        if not ids:
            raise InvalidInput("The prompt holds no token.", remedy="Write at least one character.", field="prompt")
        if not (min(ids) >= 0 and max(ids) < self.vocab_size):
            wrong = next(i for i in ids if not 0 <= i < self.vocab_size)
            raise InvalidInput(f"Token id {wrong} is outside the vocabulary of {self.vocab_size}.", field="prompt")

    def check_params(self, params: SamplingParams) -> None:
        """Raise for a biased token that the network does not have."""
        wrong = next((i for i, _ in params.logit_bias if not 0 <= i < self.vocab_size), None)
        if wrong is not None:
            raise InvalidInput(
                f"logit_bias names token {wrong}, outside the vocabulary of {self.vocab_size}.", field="logit_bias"
            )
        wrong = next((i for i in params.stop_token_ids if not 0 <= i < self.vocab_size), None)
        if wrong is not None:
            raise InvalidInput(
                f"stop_token_ids names token {wrong}, outside the vocabulary of {self.vocab_size}.",
                field="stop_token_ids",
            )


class Engine(Protocol):
    """Generates tokens inside a replica."""

    name: str
    context_length: int
    limits: NetworkLimits

    def check_room(self, tenant: str = "") -> None:
        """Raise QueueFull if no further request of a tenant fits."""

    def submit(
        self, ids: Sequence[int], params: SamplingParams, on_event: OnEvent, *, choice: Choice = FIRST
    ) -> Handle:
        """Queue a prompt. Events arrive on the engine's thread: tokens, then exactly one finish or error.

        Raises PromptTooLong, InvalidInput (a token id outside the vocabulary, an empty prompt) and QueueFull.
        """

    def is_waiting(self, handle: Handle) -> bool:
        """Return whether a request has had no step yet."""

    def stats(self) -> EngineStats:
        """Return the engine's counters."""

    def is_alive(self) -> bool:
        """Return False once the engine has stopped."""

    def close(self) -> None:
        """End every request and free the weights' memory."""


class RateMeter:
    """Tokens per second over the last seconds, and the age of the last token. One writer, any number of readers."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, int]] = deque(maxlen=4096)
        self._last: float | None = None
        self.total = 0

    def add(self, count: int) -> None:
        """Count tokens that were just made."""
        self._last = time.monotonic()
        self._recent.append((self._last, count))
        self.total += count

    def per_second(self) -> float:
        """Return the recent rate."""
        since = time.monotonic() - RATE_WINDOW_S
        return sum(count for at, count in list(self._recent) if at >= since) / RATE_WINDOW_S

    def last_age_s(self) -> float | None:
        """Return seconds since the last token, None before the first."""
        return None if self._last is None else time.monotonic() - self._last


@dataclass
class Generation:
    """One request in an engine. The engine calls `accept` and `fail` on its own thread; `cancel` is thread-safe."""

    request_id: str
    prompt: list[int]
    params: SamplingParams
    max_tokens: int
    end_ids: frozenset[int]
    decoder: TokenDecoder
    texts: TokenTexts
    on_event: OnEvent
    abort: Callable[[Generation], None]
    choice: Choice = FIRST
    created: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self._ends = frozenset(self.stop_ids)
        self.draw = SamplingState.of(
            self.params,
            repetition=self.choice.repetition,
            matcher=self.choice.matcher,
            prompt=self.prompt,
            end_ids=self.stop_ids,
        )
        if self.choice.matcher is not None:
            self.choice.matcher.budget = self.max_tokens
        self.token_ids: list[int] = []
        self.cached_tokens = 0
        self.is_over = False
        self._is_catching_up = False
        self._text = TextStream(self.decoder, self.params.stop, prompt=self.prompt, marks=self.choice.marks)
        self._first: float | None = None
        self._begun: float | None = None
        self._lock = threading.RLock()

    def __deepcopy__(self, memo: object) -> Generation:
        """Return the same request: the batching library copies a request's arguments when it starts it again."""
        return self

    @property
    def stop_ids(self) -> list[int]:
        """Return the token ids that end this request."""
        return sorted({*self.params.stop_token_ids, *(() if self.params.ignore_eos else self.end_ids)})

    @property
    def context(self) -> list[int]:
        """Return the tokens before the next: the prompt, and what another replica generated."""
        return [*self.prompt, *self.choice.begun]

    @property
    def num_generated(self) -> int:
        """Return how many tokens were generated, here and before."""
        return len(self.token_ids)

    @property
    def num_left(self) -> int:
        """Return how many tokens may still be generated."""
        return self.max_tokens - self.num_generated

    @property
    def num_own(self) -> int:
        """Return how many tokens were generated here."""
        return self.num_generated - len(self.choice.begun)

    def begin(self) -> None:
        """Note that the request has left the queue; later calls, after a pause, change nothing."""
        self._begun = self._begun or time.perf_counter()

    def catch_up(self) -> None:
        """Take the tokens that another replica generated, as if the engine had; they may be at the end."""
        self._is_catching_up = True
        self.draw.replay(self.choice.begun)
        for token in self.choice.begun:
            self.accept([token])
        self._is_catching_up, self._first = False, None

    def accept(self, token_ids: list[int]) -> None:
        """Take newly generated tokens; emit their text, and the end at an end token, stop string or limit."""
        if self.draw.fault:
            self.fail(f"The answer can't continue: {self.draw.fault}", code=self.draw.fault_code)
            if not self._is_catching_up:
                self.abort(self)
            return
        with self._lock:
            if self.is_over or not token_ids:
                return
            self._first = self._first or time.perf_counter()
            token_ids, is_complete = self._cut(token_ids)
            self._text.can_stop = self.num_generated + len(token_ids) > self.params.min_tokens
            text = self._text.push([i for i in token_ids if i not in self.end_ids and i not in self._ends])
            index, scored = self.num_generated, self._scored(token_ids)
            self.token_ids += token_ids
            self.on_event(
                TokenEvent(
                    text=text, token_ids=tuple(token_ids), index=index, choice=self.choice.number, logprobs=scored
                )
            )
            if self.is_over:  # cancelled by its own event
                return
            ended = bool(token_ids) and token_ids[-1] in self._ends
            if ended or is_complete or self._text.stopped:
                self._finish(FinishReason.STOP, token=token_ids[-1] if ended else None)
            elif self.num_generated >= self.max_tokens:
                self._finish(FinishReason.LENGTH)
        if self.is_over and not ended and not self._is_catching_up:
            self.abort(self)  # the engine has no stop strings and no constraints, and would not stop

    def _cut(self, token_ids: list[int]) -> tuple[list[int], bool]:
        """Return the tokens up to the end of a constrained text, and whether it is reached: the engine may be ahead."""
        complete_at = None if self.choice.matcher is None else self.choice.matcher.complete_at
        if complete_at is None or self.num_generated + len(token_ids) < complete_at:
            return token_ids, False
        return token_ids[: max(0, complete_at - self.num_generated)], True

    def _scored(self, token_ids: list[int]) -> tuple[ScoredToken, ...] | None:
        if self.params.logprobs is None:
            return None
        records = self.draw.records[self.num_generated : self.num_generated + len(token_ids)]
        return tuple(self.texts.scored(token, r.logprob, r.top) for token, r in zip(token_ids, records, strict=True))

    def cancel(self) -> None:
        """Stop this request."""
        with self._lock:
            was_over = self.is_over
            if not was_over:
                self._finish(FinishReason.CANCELLED)
        if not was_over:
            self.abort(self)

    def fail(self, message: str, *, code: str = "replica_error") -> None:
        """End this request with an error."""
        with self._lock:
            if not self.is_over:
                self.is_over = True
                self.on_event(GenerationErrorEvent(message=message, code=code))

    def _finish(self, reason: FinishReason, *, token: int | None = None) -> None:
        self.is_over = True
        rest = "" if reason is FinishReason.CANCELLED else self._text.finish()
        if rest:
            self.on_event(TokenEvent(text=rest, token_ids=(), index=self.num_generated, choice=self.choice.number))
        if self._text.stopped:  # the withheld text may complete a stop string
            reason = FinishReason.STOP
        now = time.perf_counter()
        decode_s = now - self._first if self._first else 0.0
        self.on_event(
            FinishEvent(
                finish_reason=reason,
                usage=TokenUsage(
                    prompt_tokens=len(self.prompt),
                    completion_tokens=self.num_generated,
                    cached_tokens=self.cached_tokens,
                ),
                ttft_ms=None if self._first is None else round((self._first - self.created) * 1000, 2),
                queue_ms=None if self._begun is None else round((self._begun - self.created) * 1000, 2),
                stop=token if token is not None and token not in self.end_ids else self._text.stop,
                tok_per_sec=decode_rate(self.num_own - 1, decode_s),
            )
        )


def read_limits(network: Any, tokenizer: Any, *, context: int | None = None) -> NetworkLimits:
    """Read context, vocabulary, end tokens from a loaded network and its tokenizer; `context` shortens it."""
    return _limits(
        network.config,
        getattr(network, "generation_config", None),
        tokenizer,
        vocab_size=int(network.get_input_embeddings().weight.shape[0]),
        context=context,
    )


def read_limits_of_folder(folder: Path, tokenizer: Any, *, context: int | None = None) -> NetworkLimits:
    """Read the same from a checkpoint's folder, without its weights; the token that ends a turn of its chat template
    ends an answer too. Raises InvalidInput where its config can't be read.
    """
    base = folder
    while is_adapter(base):
        base = base_folder_of(base)
    check_folder(base)
    try:
        config = AutoConfig.from_pretrained(str(base), trust_remote_code=False, local_files_only=True)
    except UNUSABLE as error:
        raise InvalidInput(f"The config of {base.name} can't be read: {error}") from error
    generation = None
    if (base / "generation_config.json").is_file():
        generation = GenerationConfig.from_pretrained(str(base), local_files_only=True)
    rows = int(config.get_text_config().vocab_size)
    limits = _limits(config, generation, tokenizer, vocab_size=rows, context=context)
    end = turn_end(tokenizer)
    return limits if end is None else replace(limits, end_ids=limits.end_ids | {end})


def _limits(config: Any, generation: Any, tokenizer: Any, *, vocab_size: int, context: int | None) -> NetworkLimits:
    text = config.get_text_config()
    end_ids: set[int] = set()
    for source in (generation, text, tokenizer):
        value = getattr(source, "eos_token_id", None)
        end_ids.update(value if isinstance(value, (list, tuple)) else () if value is None else (value,))
    longest = context_of_config(config)
    return NetworkLimits(
        context_length=min(longest, context or longest),
        vocab_size=vocab_size,
        end_ids=frozenset(i for i in end_ids if i >= 0),
    )


class GenerationMaker:
    """Makes the requests of an engine: numbered, and checked against its limits."""

    def __init__(self, limits: NetworkLimits, decoder: TokenDecoder) -> None:
        self._limits, self._ids = limits, itertools.count()
        self.decoder, self.texts = decoder, TokenTexts(decoder)

    def make(
        self,
        ids: Sequence[int],
        params: SamplingParams,
        on_event: OnEvent,
        *,
        choice: Choice,
        abort: Callable[[Generation], None],
    ) -> Generation:
        """Return a request for a prompt. Raises what `NetworkLimits.check` raises."""
        max_tokens = self._limits.check(ids, params)
        return Generation(
            request_id=f"r{next(self._ids)}",
            prompt=list(ids),
            params=params,
            max_tokens=max_tokens,
            end_ids=self._limits.end_ids | (choice.adapter.end_ids if choice.adapter else frozenset()),
            decoder=self.decoder,
            texts=self.texts,
            choice=choice,
            on_event=on_event,
            abort=abort,
        )
