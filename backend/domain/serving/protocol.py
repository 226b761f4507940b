"""Wire contract between gateway, services and replicas: generation requests and events.

Independent of HTTP, engines and tokenizers. A request is either messages (rendered by the checkpoint's chat template
inside the replica), a text prompt, token ids, or several prompts. Each prompt is answered `n` times; an answer is a
choice, numbered `prompt * n + repetition`. A stream holds the events of all choices and exactly one finish or error, at
its end.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from backend.domain.json_values import JsonObject
from backend.domain.validation import describe_fault
from backend.domain.wording import shorten

MAX_STOP_STRINGS = 64
MAX_STOP_TOKENS = 128
MAX_SEED = 2**63 - 1
MAX_CHOICES = 128
MAX_REASON = 300  # characters
_PLACE = re.compile(r"[ ^-]*|\s*\d+ \| .*")
MAX_PROMPTS = 2048
MAX_IDS = 2**20
MAX_LOGPROBS = 20
MAX_BIASES = 1024
MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY = 0.01, 10.0
MAX_COUNT = 2**31 - 1
"""Largest count of tokens and largest token id that are read; engines take what context and vocabulary hold."""
UNKNOWN = -1
"""Id of a token that another server generated: its tokenizer is not known here."""
UNSTATED_TOKENS = 512
"""Tokens of an answer that are expected of a request without `max_tokens`."""
TOKENS_PER_BYTE = 0.25
"""Tokens of a prompt per byte, where no tokenizer is at hand and nothing was measured."""
PROMPT_TOKENS = "x-prompt-tokens"
"""Header of a replica's stream: tokens of the prompt that it accepted."""
TOOLS_LEFT_OUT = "x-tools-left-out"
"""Header of a replica's stream: `1` if the network is not offered the request's tools, though it may call one."""
CONTEXT_EXCEEDED = "context_length_exceeded"
"""Error code (OpenAI's): the prompt leaves no room for a token in the network's context."""
QUEUE_TIMEOUT = "queue_timeout"
"""Error code: the request waited longer than its endpoint allows before its first step. No fault of the replica."""
ANSWER_LIMIT = "answer_limit"
"""Error code: the answer took longer than its endpoint allows. No fault of the replica."""
LEAVING = "leaving"
"""Error code: the replica ends before it has begun this request, which another may take."""
NOT_RESUMED = "not_resumed"
"""Error code: an answer that another replica began can't be continued exactly."""
ENGINE_FAILED = "engine_failed"
"""Error code: the engine failed or hung on this request alone, which is not sent to another replica."""
BATCH_FAILED = "batch_failed"
"""Error code: the engine failed or hung on a batch of several requests, of which this is one. It may continue at
another replica, once.
"""
REQUEST_FAILED = "request_failed"
"""Error code: this request failed by itself; the replica continues with all others."""
INVALID = "invalid_request"
"""Error code: the request asks for what this network can't do. A fault of the client's."""


def code_of_failure(*, batched: int) -> str:
    """Return the error code of a request that an engine failed on, in a batch of this many."""
    return ENGINE_FAILED if batched <= 1 else BATCH_FAILED


class Role(StrEnum):
    """Author of a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class FinishReason(StrEnum):
    """End of a generation: a stop string or end token, the length limit, a call of a tool, or a client that left."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CANCELLED = "cancelled"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ChatMessage(_Frozen):
    """One message. An assistant's may call tools; a tool's names the call that it answers (data/rows/tool_calls.py)."""

    role: Role
    content: str
    tool_calls: tuple[JsonObject, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None

    def as_dict(self) -> JsonObject:
        """Return the message as datasets hold it: without empty fields."""
        message: dict[str, object] = {"role": self.role.value, "content": self.content}
        if self.tool_calls:
            message["tool_calls"] = list(self.tool_calls)
        return message | {key: value for key in ("tool_call_id", "name") if (value := getattr(self, key)) is not None}


class Constraint(_Frozen):
    """A form that an answer must match: a JSON schema, any JSON object, a regular expression, or a Lark grammar
    (llguidance's dialect).

    `value` is the schema as JSON text, the expression or the grammar; empty for `json_object`.
    """

    kind: Literal["json_schema", "json_object", "regex", "lark"]
    value: str = Field(default="", max_length=200_000)


def on_one_line(reason: str) -> str:
    """Return a library's reason against a constraint without the lines that mark the place in its text."""
    lines = (line.strip() for line in reason.splitlines() if not _PLACE.fullmatch(line))
    return shorten(" ".join(lines), MAX_REASON)


class SamplingParams(_Frozen):
    """Sampling of completions. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 switch their filters off.

    `max_tokens` None means as many as the context holds, 0 nothing (to score a prompt). The same `seed` draws the same
    completion, independent of the rest of the batch. Penalties follow OpenAI's definition: subtracted from the logits
    of tokens already generated, per occurrence (`frequency`) or once (`presence`). `repetition_penalty` divides the
    logits of tokens of the prompt and the answer where positive and multiplies them elsewhere (Keskar et al., CTRL,
    2019, as in transformers). `min_p` drops tokens less likely than this share of the most likely one's probability
    (Nguyen et al., 2024). `logit_bias` holds (token id, amount added to its logit). `stop_token_ids` end an answer
    beside the network's own end tokens, which `ignore_eos` takes no notice of. Neither they nor stop strings end it
    within the first `min_tokens` tokens. `logprobs` asks for the natural-log probability of each token under the
    network itself (before temperature, biases and constraints) and of that many alternatives.
    """

    max_tokens: int | None = Field(default=None, ge=0, le=MAX_COUNT)
    temperature: float = Field(default=1.0, ge=0.0, le=2.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=0, le=MAX_COUNT)
    min_p: float = Field(default=0.0, ge=0.0, le=1.0)
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    stop: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = Field(
        default=(), max_length=MAX_STOP_STRINGS
    )
    presence_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    frequency_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    repetition_penalty: float = Field(default=1.0, ge=MIN_REPETITION_PENALTY, le=MAX_REPETITION_PENALTY)
    min_tokens: int = Field(default=0, ge=0, le=MAX_COUNT)
    stop_token_ids: tuple[int, ...] = Field(default=(), max_length=MAX_STOP_TOKENS)
    logit_bias: tuple[tuple[int, float], ...] = Field(default=(), max_length=MAX_BIASES)
    logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    constraint: Constraint | None = None
    ignore_eos: bool = False


class ToolChoice(_Frozen):
    """Permission to call tools: an answer may (`auto`), must (`required`) or must not (`none`) call one; `name` is the
    only one allowed.
    """

    mode: Literal["auto", "none", "required"] = "auto"
    name: str | None = None


class Task(StrEnum):
    """Use of prompts: continue them, embed them, score answers to them, or only tokenise them."""

    GENERATE = "generate"
    EMBED = "embed"
    SCORE = "score"
    TOKENIZE = "tokenize"


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
"""How much an answer is to be reasoned about."""


class Begun(_Frozen):
    """The beginning of an answer whose replica was lost: its tokens, and how many characters of them (text, reasoning
    and arguments of calls) were sent. A replica that continues it sends what follows; its usage counts all tokens.
    """

    token_ids: tuple[int, ...] = Field(min_length=1)
    characters: int = Field(ge=0)


class GenerateRequest(_Frozen):
    """A body of a replica's `POST /generate`. Exactly one of `messages`, `prompt`, `token_ids`, `prompts` and `pairs`
    is given; the last are prompts with answers to be scored.

    `echo` returns the prompt before the answer, with its probabilities if `params.logprobs` asks for them. `split`
    separates reasoning and calls of tools from an answer's text. `continue_final` continues the last message, an
    assistant's, in place of a new answer. `template_variables` are given to the chat template beside the messages
    (`enable_thinking` of Qwen 3), and so is `effort`, where the template has a switch for it. `tenant` names the
    account that asks, without meaning: tenants take turns, and share no cached prompt.
    """

    messages: tuple[ChatMessage, ...] | None = None
    tools: tuple[JsonObject, ...] | None = None
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    prompt: str | None = None
    token_ids: tuple[int, ...] | None = None
    prompts: tuple[str | tuple[int, ...], ...] | None = Field(default=None, min_length=1, max_length=MAX_PROMPTS)
    pairs: tuple[tuple[str, str], ...] | None = Field(default=None, min_length=1, max_length=MAX_PROMPTS)
    params: SamplingParams = SamplingParams()
    n: int = Field(default=1, ge=1, le=MAX_CHOICES)
    task: Task = Task.GENERATE
    echo: bool = False
    split: bool = False
    continue_final: bool = False
    template_variables: dict[str, object] = Field(default_factory=dict)
    effort: Effort | None = None
    begun: Begun | None = None
    stream: bool = True
    adapter: str | None = None
    tenant: str = Field(default="", max_length=64)

    @model_validator(mode="after")
    def _one_input(self) -> GenerateRequest:
        inputs = [
            name for name in ("messages", "prompt", "token_ids", "prompts", "pairs") if getattr(self, name) is not None
        ]
        if len(inputs) != 1:
            raise ValueError(
                "give exactly one of messages, prompt, token_ids, prompts and pairs (got"
                f" {', '.join(inputs) or 'none'})"
            )
        if (self.pairs is not None) != (self.task is Task.SCORE):
            raise ValueError("pairs, and only these, are scored")
        if self.messages is not None and not self.messages:
            raise ValueError("messages must hold at least one message")
        if self.continue_final and not self._ends_with_text:
            raise ValueError(
                "continue_final_message needs messages that end with text of the assistant, and one before it"
            )
        if self.begun is not None and not self.can_be_resumed:
            raise ValueError("only a single answer without echo and probabilities is continued")
        return self

    @property
    def _ends_with_text(self) -> bool:
        messages = self.messages or ()
        return len(messages) > 1 and messages[-1].role is Role.ASSISTANT and bool(messages[-1].content)

    @property
    def can_be_resumed(self) -> bool:
        """Return whether another replica can continue the answer: a single one, without echo and probabilities."""
        is_plain = self.task is Task.GENERATE and not self.echo and self.params.logprobs is None
        return is_plain and self.num_choices == 1 and self.params.max_tokens != 0

    @property
    def num_choices(self) -> int:
        """Return how many answers are asked for."""
        return len(self.prompts or self.pairs or "1") * self.n

    @property
    def texts(self) -> list[str]:
        """Return the texts that the prompts are made of."""
        texts = [message.content for message in self.messages or ()] + [self.prompt or ""]
        texts += [prompt for prompt in self.prompts or () if isinstance(prompt, str)]
        return texts + [text for pair in self.pairs or () for text in pair]

    @property
    def prompt_bytes(self) -> int:
        """Return the bytes of the prompts' texts."""
        return sum(len(text.encode("utf-8", errors="replace")) for text in self.texts)

    @property
    def num_prompt_ids(self) -> int:
        """Return the tokens of the prompts that are given as ids."""
        ids = sum(len(prompt) for prompt in self.prompts or () if not isinstance(prompt, str))
        return ids + len(self.token_ids or ())

    def estimate_prompt(self) -> int:
        """Return about how many tokens the prompts have: their ids, and their bytes at the rate of most texts."""
        return self.num_prompt_ids + math.ceil(self.prompt_bytes * TOKENS_PER_BYTE)

    @property
    def most_new_tokens(self) -> int:
        """Return how many tokens all answers may have together, as expected where the request states none."""
        if self.task is not Task.GENERATE:
            return 0
        stated = self.params.max_tokens
        return self.num_choices * (UNSTATED_TOKENS if stated is None else stated)


class TokenUsage(_Frozen):
    """Tokens of one request, counted by the engine. An end token counts as generated; `cached_tokens` of the prompt
    were not computed again. A prompt that is answered several times counts once.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


class TokenLogprob(_Frozen):
    """A token's text and natural-log probability. A token that is not a complete character has `raw`, its bytes; a
    prompt's first token has no probability.
    """

    token_id: int
    token: str
    logprob: float | None = None
    raw: tuple[int, ...] | None = None

    @property
    def encoded(self) -> bytes:
        """Return the token's own bytes."""
        return self.token.encode(errors="replace") if self.raw is None else bytes(self.raw)


class ScoredToken(TokenLogprob):
    """A token of an answer or prompt, and the most likely ones at its position, best first."""

    top: tuple[TokenLogprob, ...] = ()


class ToolCallDelta(_Frozen):
    """A piece of a tool call. The first piece of call `index` carries `id` and `name`; `arguments` is JSON to join."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True)
class Accepted:
    """A replica's acceptance of a request: tokens of the prompt, and whether the network is not offered its tools."""

    prompt_tokens: int
    has_no_tools: bool = False


class TokenEvent(_Frozen):
    """New text of a completion. `index` counts the tokens of its choice generated before this event; `text` may be
    empty while a multibyte character or a possible stop string is incomplete.
    """

    type: Literal["token"] = "token"
    text: str
    token_ids: tuple[int, ...]
    index: int
    choice: int = 0
    logprobs: tuple[ScoredToken, ...] | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCallDelta, ...] | None = None

    @property
    def num_characters(self) -> int:
        """Return the characters of text, reasoning and arguments of calls."""
        return len(self.text) + len(self.reasoning or "") + sum(len(call.arguments) for call in self.tool_calls or ())


class PromptEvent(_Frozen):
    """Consecutive tokens of a prompt, as tokenised, with probabilities where they were asked for. They are those of
    `choices` choices, which begin with `choice`.
    """

    type: Literal["prompt"] = "prompt"
    tokens: tuple[ScoredToken, ...]
    choice: int = 0
    choices: int = 1


class EmbeddingEvent(_Frozen):
    """The vector of one prompt."""

    type: Literal["embedding"] = "embedding"
    vector: tuple[float, ...]
    choice: int = 0


class ScoreEvent(_Frozen):
    """The reward of one answer: a real number that only compares with others of the same network."""

    type: Literal["score"] = "score"
    score: float
    choice: int = 0


class ChoiceEvent(_Frozen):
    """The end of one choice of several."""

    type: Literal["choice"] = "choice"
    choice: int
    finish_reason: FinishReason
    stop: str | int | None = None


class FinishEvent(_Frozen):
    """The end of a request. `finish_reason` is that of the last choice, `stop` the stop string or the requested token
    that ended it; `tok_per_sec` is the rate after the first token, None when only one token was generated; `queue_ms`
    is the wait before the first step, None where it is not known.
    """

    type: Literal["finish"] = "finish"
    finish_reason: FinishReason
    usage: TokenUsage
    ttft_ms: float | None = None
    tok_per_sec: float | None = None
    stop: str | int | None = None
    queue_ms: float | None = None


class GenerationErrorEvent(_Frozen):
    """A generation that failed after its start."""

    type: Literal["error"] = "error"
    message: str
    code: str = "replica_error"


OpenEvent = TokenEvent | PromptEvent | EmbeddingEvent | ScoreEvent | ChoiceEvent
"""An event after which more follow."""
GenerationEvent = OpenEvent | FinishEvent | GenerationErrorEvent
_EVENT: TypeAdapter[GenerationEvent] = TypeAdapter(Annotated[GenerationEvent, Field(discriminator="type")])


def parse_event(line: bytes | str) -> GenerationEvent:
    """Read one line of a replica's stream. Raises pydantic's ValidationError for anything else."""
    return _EVENT.validate_json(line)


SHOWN = 40  # characters of a value that an error repeats
_ALTERNATIVE = re.compile(
    r"(\[key\]|str|int|constrained-(str|int)|nullable|list\[.*\]|(function-|tagged-union|union).*)$"
)


def first_problem(errors: list[Any]) -> tuple[str, str]:
    """Return (field, message) of the first of pydantic's `errors()`, the field in dotted form such as
    `messages.0.content`.

    For a union, pydantic reports an error per type; that of the matching type is returned, or where none matches that
    of the type whose list goes furthest.
    """
    same_field = [error for error in errors if error["loc"][:1] == errors[0]["loc"][:1]]
    furthest = max(same_field, key=lambda error: [part for part in error["loc"] if isinstance(part, int)])
    error = next((error for error in same_field if not str(error["type"]).endswith("_type")), furthest)
    parts = [str(part) for part in error["loc"] if not _ALTERNATIVE.match(str(part))]
    message, value = describe_fault(error), error.get("input")
    is_other_type = isinstance(value, str | bool) and str(error["type"]).endswith("_type")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_other_type or (is_number and error["type"] != "value_error"):  # whose own words name what they need
        message += f", not {shorten(json.dumps(value), SHOWN)}"
    return ".".join(parts), message
