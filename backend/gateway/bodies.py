"""OpenAI's request bodies: supported fields, ignored fields, and refused fields.

A field that would silently change the answer (`logprobs`, `tools`, `n` above 1, ...) is refused; one that would not (`user`,
`metadata`, `store`, ...) and unknown ones are ignored, as OpenAI-compatible servers do.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from backend.domain.serving.protocol import MAX_SEED, MAX_STOP_STRINGS, ChatMessage, GenerateRequest, Role, SamplingParams, first_problem
from backend.gateway.errors import ApiError

StopString = Annotated[str, Field(min_length=1, max_length=200)]
DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's default for /v1/completions


class StreamOptions(BaseModel):
    """Options of a stream: whether a final chunk carries token counts."""

    include_usage: bool = False


class TextPart(BaseModel):
    """A part of a message; only text is served."""

    type: Literal["text"]
    text: str


class MessageBody(BaseModel):
    """One message, as OpenAI's clients send it."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def to_message(self) -> ChatMessage:
        """Return the message with its parts joined; `developer` is what newer clients call `system`."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return ChatMessage(role=Role.SYSTEM if self.role == "developer" else Role(self.role), content=text)


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore")

    model: Annotated[str, Field(min_length=1, max_length=200)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    seed: Annotated[int, Field(ge=-MAX_SEED, le=MAX_SEED)] | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=MAX_STOP_STRINGS)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int | None = None
    logit_bias: dict[str, float] | None = None
    user: Any = None  # keeps a user on one variant; any value is accepted, as before

    @field_validator("n")
    @classmethod
    def _one_choice(cls, value: int | None) -> int | None:
        if value not in (None, 1):
            raise ValueError(f"n={value} is not supported; send one request for each completion")
        return value

    @field_validator("logit_bias")
    @classmethod
    def _no_bias(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        if value:
            raise ValueError("logit_bias is not supported")
        return value

    def _params(self, *, default_tokens: int | None, max_tokens: int | None) -> SamplingParams:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return SamplingParams(
            max_tokens=max_tokens or default_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(0, self.top_k or 0),
            seed=None if self.seed is None else self.seed % MAX_SEED,
            stop=stop,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
        )

    @property
    def include_usage(self) -> bool:
        """Return whether a stream ends with a chunk of token counts."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatBody(_Body):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[MessageBody], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    response_format: dict[str, Any] | None = None

    @field_validator("logprobs", "top_logprobs", "tools", "functions")
    @classmethod
    def _not_served(cls, value: Any) -> Any:
        if value:
            raise ValueError("this field is not supported")
        return value

    @field_validator("response_format")
    @classmethod
    def _only_text(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None and value.get("type") != "text":
            raise ValueError(f"only the type 'text' is supported, not {value.get('type')!r}")
        return value

    def to_request(self) -> GenerateRequest:
        """Return what a replica is asked."""
        params = self._params(default_tokens=None, max_tokens=self.max_completion_tokens or self.max_tokens)
        return GenerateRequest(messages=tuple(message.to_message() for message in self.messages), params=params)


class CompletionBody(_Body):
    """`POST /v1/completions`: one prompt, as text or token ids."""

    prompt: str | list[str] | list[int]
    logprobs: int | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None

    @field_validator("prompt")
    @classmethod
    def _one_prompt(cls, value: str | list[str] | list[int]) -> str | list[int]:
        if isinstance(value, list) and value and isinstance(value[0], str):
            if len(value) > 1:
                raise ValueError(f"{len(value)} prompts are not supported; send one request for each")
            return value[0]
        return value  # type: ignore[return-value]

    @field_validator("logprobs", "echo", "suffix")
    @classmethod
    def _not_served(cls, value: Any) -> Any:
        if value not in (None, False, ""):
            raise ValueError("this field is not supported")
        return value

    @field_validator("best_of")
    @classmethod
    def _one_choice_only(cls, value: int | None) -> int | None:
        if value not in (None, 1):
            raise ValueError("best_of above 1 is not supported")
        return value

    def to_request(self) -> GenerateRequest:
        """Return what a replica is asked."""
        params = self._params(default_tokens=DEFAULT_COMPLETION_TOKENS, max_tokens=self.max_tokens)
        if isinstance(self.prompt, str):
            return GenerateRequest(prompt=self.prompt, params=params)
        return GenerateRequest(token_ids=tuple(int(i) for i in self.prompt), params=params)


Body = TypeVar("Body", ChatBody, CompletionBody)


def parse_body(raw: bytes, kind: type[Body]) -> Body:
    """Read a body, or raise ApiError 422 that names the field at fault."""
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        field, message = first_problem(error.errors())
        raise ApiError(422, f"{field}: {message}" if field else message, code="invalid_value", param=field or None) from error
