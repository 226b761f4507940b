"""Wire contract between gateway, services and replicas: generation requests and events.

Independent of HTTP, engines and tokenizers. A request is either messages (rendered by the checkpoint's chat template inside the
replica), a text prompt, or token ids.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

MAX_STOP_STRINGS = 4
MAX_SEED = 2**63 - 1
CONTEXT_EXCEEDED = "context_length_exceeded"
"""Error code (OpenAI's): the prompt leaves no room for a token in the network's context."""
QUEUE_TIMEOUT = "queue_timeout"
"""Error code: the request waited longer than its endpoint allows before its first step. No fault of the replica."""
ANSWER_LIMIT = "answer_limit"
"""Error code: the answer took longer than its endpoint allows. No fault of the replica."""
LEAVING = "leaving"
"""Error code: the replica ends before it has begun this request, which another may take."""
ENGINE_FAILED = "engine_failed"
"""Error code: the engine failed or hung on this request, which is not sent to another replica."""


class Role(StrEnum):
    """Author of a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class FinishReason(StrEnum):
    """End of a generation: a stop string or end token, the length limit, or a client that left."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ChatMessage(_Frozen):
    """One message. An assistant's may call tools; a tool's names the call that it answers (backend.domain.data.rows.tool_calls)."""

    role: Role
    content: str
    tool_calls: tuple[dict[str, Any], ...] = ()
    tool_call_id: str | None = None
    name: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the message as datasets hold it: without empty fields."""
        message: dict[str, Any] = {"role": self.role.value, "content": self.content}
        if self.tool_calls:
            message["tool_calls"] = list(self.tool_calls)
        return message | {key: value for key in ("tool_call_id", "name") if (value := getattr(self, key)) is not None}


class SamplingParams(_Frozen):
    """Sampling of completions. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 switch their filters off.

    `max_tokens` None means as many as the context holds. The same `seed` draws the same completion, independent of the rest of the batch.
    Penalties follow OpenAI's definition: subtracted from the logits of tokens already generated, per occurrence (`frequency`) or
    once (`presence`).
    """

    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=1.0, ge=0.0, le=2.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=0)
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    stop: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = Field(default=(), max_length=MAX_STOP_STRINGS)
    presence_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    frequency_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    ignore_end: bool = Field(default=False, description="Continue past the end token, for benchmarks.")


class GenerateRequest(_Frozen):
    """A body of a replica's `POST /generate`. Exactly one of `messages`, `prompt` and `token_ids` is given."""

    messages: tuple[ChatMessage, ...] | None = None
    tools: tuple[dict[str, Any], ...] | None = None
    prompt: str | None = None
    token_ids: tuple[int, ...] | None = None
    params: SamplingParams = SamplingParams()
    stream: bool = True

    @model_validator(mode="after")
    def _one_input(self) -> GenerateRequest:
        inputs = [name for name in ("messages", "prompt", "token_ids") if getattr(self, name) is not None]
        if len(inputs) != 1:
            raise ValueError(f"give exactly one of messages, prompt and token_ids (got {', '.join(inputs) or 'none'})")
        if self.messages is not None and not self.messages:
            raise ValueError("messages must hold at least one message")
        return self


class TokenUsage(_Frozen):
    """Tokens of one request, counted by the engine. An end token counts as generated."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


class TokenEvent(_Frozen):
    """New text of a completion. `index` counts the tokens generated before this event; `text` may be empty while a multibyte
    character or a possible stop string is incomplete."""

    type: Literal["token"] = "token"
    text: str
    token_ids: tuple[int, ...]
    index: int


class FinishEvent(_Frozen):
    """The end of a completion. `tok_per_sec` is the rate after the first token; None when only one token was generated."""

    type: Literal["finish"] = "finish"
    finish_reason: FinishReason
    usage: TokenUsage
    ttft_ms: float | None = None
    tok_per_sec: float | None = None


class ErrorEvent(_Frozen):
    """A generation that failed after its start."""

    type: Literal["error"] = "error"
    message: str
    code: str = "replica_error"


GenerationEvent = TokenEvent | FinishEvent | ErrorEvent
_EVENT: TypeAdapter[GenerationEvent] = TypeAdapter(Annotated[GenerationEvent, Field(discriminator="type")])


def parse_event(line: bytes | str) -> GenerationEvent:
    """Read one line of a replica's stream. Raises pydantic's ValidationError for anything else."""
    return _EVENT.validate_json(line)


_ALTERNATIVE = re.compile(r"(str|int|constrained-(str|int)|nullable|list\[.*\]|(function-|tagged-union|union).*)$")


def first_problem(errors: list[Any]) -> tuple[str, str]:
    """Return (field, message) of the first of pydantic's `errors()`, the field in dotted form such as `messages.0.content`.

    For a union, pydantic reports an error per type; the error of the matching type is returned.
    """
    same_field = [error for error in errors if error["loc"][:1] == errors[0]["loc"][:1]]
    error = next((error for error in same_field if not str(error["type"]).endswith("_type")), errors[0])
    parts = [str(part) for part in error["loc"] if not _ALTERNATIVE.match(str(part))]
    return ".".join(parts), str(error["msg"]).removeprefix("Value error, ")
