"""`POST /v1/messages`: the bodies of Anthropic's clients."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from backend.domain.serving.protocol import (
    MAX_COUNT,
    MAX_STOP_STRINGS,
    ChatMessage,
    Constraint,
    Effort,
    GenerateRequest,
    Role,
    SamplingParams,
    Task,
    ToolChoice,
)
from backend.gateway.bodies.fields import FEW, MAX_ITEMS, ModelName, OpenObject, StrictBody, TokenCount
from backend.gateway.bodies.messages import FunctionName, choose_tool, template_call, template_tool
from backend.gateway.bodies.structured import schema_constraint
from backend.gateway.errors import ApiError

VERSION = re.compile(r"20\d\d-\d\d-\d\d")
StopString = Annotated[str, Field(min_length=1, max_length=200)]


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
    tools: Annotated[list[AnthropicTool], Field(max_length=128)] | None = None
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
                " without tools and without a form of the answer",
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
