"""`POST /v1/messages`: bodies, answers and errors in the shapes of Anthropic's API."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator
from starlette.responses import JSONResponse, Response

from backend.domain.json_values import JsonObject
from backend.domain.serving.protocol import (
    MAX_COUNT,
    MAX_STOP_STRINGS,
    ChatMessage,
    Constraint,
    Effort,
    FinishEvent,
    FinishReason,
    GenerateRequest,
    OpenEvent,
    Role,
    SamplingParams,
    Task,
    ToolChoice,
)
from backend.gateway.answers import Block, BlockReader, Change, Closed, Opened, encode_stream, named_event, read_to_end
from backend.gateway.dialects.completions import (
    FunctionName,
    StopString,
    choose_tool,
    schema_constraint,
    template_call,
    template_tool,
    with_own_names,
)
from backend.gateway.dialects.fields import FEW, MAX_ITEMS, ModelName, OpenObject, StrictBody, TokenCount
from backend.gateway.errors import ApiError, ErrorStyle
from backend.gateway.request import ApiExchange, Events

VERSION = re.compile(r"20\d\d-\d\d-\d\d")


class _Block(BaseModel):
    """A block of a message. Marks for caching and citations change no answer here."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class TextBlock(_Block):
    """Text."""

    type: Literal["text"]
    text: str


class ThinkingBlock(_Block):
    """Reasoning of an earlier answer, which is not shown to the network again."""

    type: Literal["thinking", "redacted_thinking"]


class ToolUseBlock(_Block):
    """A call that an earlier answer made."""

    type: Literal["tool_use"]
    id: Annotated[str, Field(min_length=1, max_length=200)]
    name: FunctionName
    input: OpenObject = Field(default_factory=dict)


class ToolResultBlock(_Block):
    """The result of a call."""

    type: Literal["tool_result"]
    tool_use_id: Annotated[str, Field(min_length=1, max_length=200)]
    content: str | Annotated[list[TextBlock], FEW] | None = None
    is_error: bool | None = None


ContentBlock = Annotated[TextBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock, Field(discriminator="type")]


class AnthropicMessage(_Block):
    """One message; `system` is what some clients put among them."""

    role: Literal["user", "assistant", "system"]
    content: str | Annotated[list[ContentBlock], FEW]

    def to_messages(self) -> list[ChatMessage]:
        """Return the message as templates know it: results of tools are messages of their own."""
        blocks = [TextBlock(type="text", text=self.content)] if isinstance(self.content, str) else self.content
        messages: list[ChatMessage] = []
        texts: list[str] = []
        calls: list[dict[str, object]] = []
        for block in blocks:
            if isinstance(block, TextBlock):
                texts.append(block.text)
            elif isinstance(block, ToolUseBlock):
                calls.append(template_call(block.id, block.name, json.dumps(block.input, ensure_ascii=False)))
            elif isinstance(block, ToolResultBlock):
                messages.append(
                    ChatMessage(role=Role.TOOL, content=_text(block.content), tool_call_id=block.tool_use_id)
                )
        if texts or calls or not messages:
            messages.append(ChatMessage(role=Role(self.role), content="\n\n".join(texts), tool_calls=tuple(calls)))
        return messages


class AnthropicTool(_Block):
    """A tool; only those that the client runs itself are served."""

    type: Literal["custom"] | None = None
    name: FunctionName
    description: str | None = None
    input_schema: OpenObject

    def as_template_tool(self) -> dict[str, object]:
        """Return the tool as chat templates expect it."""
        return template_tool(self.name, self.description, self.input_schema)


class AnthropicToolChoice(StrictBody):
    """Permission to call tools."""

    type: Literal["auto", "any", "tool", "none"]
    name: FunctionName | None = None
    disable_parallel_tool_use: bool = False


class Thinking(StrictBody):
    """Permission to reason first. A budget of tokens for it is not kept."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: TokenCount | None = None
    display: str | None = None


class OutputFormat(StrictBody):
    """A schema that the answer matches."""

    type: Literal["json_schema"]
    json_schema: Annotated[OpenObject, Field(alias="schema")]


class OutputConfig(StrictBody):
    """Form and effort of an answer."""

    effort: Effort | None = None
    format: OutputFormat | None = None


class Edit(_Block):
    """A change of the conversation that the API makes: only that of reasoning, which is never shown again."""

    type: Annotated[str, Field(pattern=r"^clear_thinking_\d+$")]


class ContextManagement(StrictBody):
    """Changes of the conversation before it is answered."""

    edits: Annotated[list[Edit], FEW] = Field(default_factory=list)


class CountBody(StrictBody):
    """`POST /v1/messages/count_tokens`."""

    neutral: ClassVar[dict[str, tuple[Any, ...]]] = {}

    model: ModelName
    messages: Annotated[list[AnthropicMessage], Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True)]
    system: str | Annotated[list[TextBlock], FEW] | None = None
    tools: Annotated[list[AnthropicTool], Field(max_length=128), AfterValidator(with_own_names)] | None = None
    tool_choice: AnthropicToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: Any = None
    context_management: ContextManagement | None = None

    @field_validator("tool_choice")
    @classmethod
    def _names_a_tool(cls, value: AnthropicToolChoice | None, info: Any) -> AnthropicToolChoice | None:
        _choose(value, info.data.get("tools"))
        return value

    def to_request(self, *, task: Task = Task.TOKENIZE, params: SamplingParams | None = None) -> GenerateRequest:
        """Return the request for a replica."""
        system = [ChatMessage(role=Role.SYSTEM, content=_text(self.system))] if self.system else []
        messages = [*system, *(part for message in self.messages for part in message.to_messages())]
        is_continued = messages[-1].role is Role.ASSISTANT and not messages[-1].tool_calls
        if is_continued and (
            self.tools or self.constraint() is not None or len(messages) < 2 or not messages[-1].content
        ):
            raise ApiError(
                400,
                "messages: the last message is the assistant's, which is continued only as text, after another message,"
                " without tools and without a JSON schema",
                code="invalid_value",
                param="messages",
            )
        return GenerateRequest(
            messages=tuple(messages),
            tools=tuple(tool.as_template_tool() for tool in self.tools) if self.tools else None,
            tool_choice=_choose(self.tool_choice, self.tools),
            parallel_tool_calls=self.tool_choice is None or not self.tool_choice.disable_parallel_tool_use,
            params=params or SamplingParams(),
            split=not is_continued,
            continue_final=is_continued,
            effort=self._effort(),
            task=task,
        )

    def constraint(self) -> Constraint | None:
        """Return the form that the answer must have."""
        form = self.output_config.format if self.output_config else None
        return None if form is None else schema_constraint(form.json_schema, param="output_config.format.schema")

    def _effort(self) -> Effort | None:
        if self.thinking is not None and self.thinking.type == "disabled":
            return "none"
        if self.thinking is not None and self.thinking.type == "enabled" and self.output_config is None:
            return "high"
        return self.output_config.effort if self.output_config else None


class MessagesBody(CountBody):
    """`POST /v1/messages`."""

    max_tokens: TokenCount
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=MAX_COUNT)] | None = None
    metadata: OpenObject | None = None
    stop_sequences: Annotated[list[StopString], Field(max_length=MAX_STOP_STRINGS)] | None = None
    stream: bool = False

    def to_request(self, *, task: Task = Task.GENERATE, params: SamplingParams | None = None) -> GenerateRequest:
        """Return the request for a replica."""
        params = params or SamplingParams(
            max_tokens=self.max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=self.top_k or 0,
            stop=tuple(self.stop_sequences or ()),
            constraint=self.constraint(),
        )
        return super().to_request(task=task, params=params)


def _choose(choice: AnthropicToolChoice | None, tools: list[AnthropicTool] | None) -> ToolChoice:
    names = {tool.name for tool in tools or ()}
    if choice is None or choice.type in ("auto", "none"):
        return choose_tool("none" if choice is not None and choice.type == "none" else "auto", None, names)
    name = (choice.name or "") if choice.type == "tool" else None
    return choose_tool("required", name, names, word=choice.type)


def check_version(version: str | None) -> None:
    """Raise ApiError for what is not a version: a date. From 2023-06-01 on they name the fields served here alike."""
    if version is not None and not (VERSION.fullmatch(version) and version >= "2023-06-01"):
        raise ApiError(
            400, f"anthropic-version: {version[:40]!r} is not a version such as 2023-06-01.", code="invalid_value"
        )


def _text(content: str | Annotated[list[TextBlock], FEW] | None) -> str:
    return content if isinstance(content, str) else "\n\n".join(block.text for block in content or ())


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
