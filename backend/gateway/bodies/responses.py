"""`POST /v1/responses`: the bodies of OpenAI's newer API."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, field_validator

from backend.domain.json_values import JsonObject
from backend.domain.serving.protocol import (
    MAX_LOGPROBS,
    ChatMessage,
    Constraint,
    Effort,
    GenerateRequest,
    Role,
    SamplingParams,
    ToolChoice,
)
from backend.gateway.bodies.completions import StreamOptions
from backend.gateway.bodies.fields import FEW, ModelName, OpenObject, StrictBody, TokenCount
from backend.gateway.bodies.messages import FunctionName, choose_tool, template_call, template_tool
from backend.gateway.bodies.structured import schema_constraint
from backend.gateway.errors import ApiError

LOGPROBS = "message.output_text.logprobs"


class _Item(BaseModel):
    """An item of the input. Ids and states that answers gave to items change nothing."""

    model_config = ConfigDict(extra="ignore")


class TextItem(_Item):
    """Text of a message or of a tool's result."""

    type: Literal["input_text", "output_text", "text"]
    text: str


class MessageItem(_Item):
    """A message."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextItem], FEW]


class CallItem(_Item):
    """A call that an earlier answer made."""

    type: Literal["function_call"]
    call_id: Annotated[str, Field(min_length=1, max_length=200)]
    name: FunctionName
    arguments: str


class ResultItem(_Item):
    """The result of a call."""

    type: Literal["function_call_output"]
    call_id: Annotated[str, Field(min_length=1, max_length=200)]
    output: str | Annotated[list[TextItem], FEW]


class ReasoningItem(_Item):
    """Reasoning of an earlier answer, which is not shown to the network again."""

    type: Literal["reasoning"]


def _type_of(item: Any) -> str:
    kind = item.get("type", "message") if isinstance(item, dict) else getattr(item, "type", "message")
    return kind if isinstance(kind, str) else "message"


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[ResultItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(_type_of),
]
ITEMS: TypeAdapter[list[Item]] = TypeAdapter(list[Item])


class ResponseTool(_Item):
    """A tool; only functions, which the client runs itself, are served."""

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: OpenObject | None = None
    strict: bool | None = None

    def as_template_tool(self) -> dict[str, object]:
        """Return the tool as chat templates expect it."""
        return template_tool(self.name, self.description, self.parameters)


class FunctionChoice(StrictBody):
    """The function that must be called."""

    type: Literal["function"]
    name: FunctionName


class TextFormat(StrictBody):
    """The form of the text."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    json_schema: Annotated[OpenObject | None, Field(alias="schema")] = None


class TextOptions(StrictBody):
    """Options of the text."""

    neutral: ClassVar[dict[str, tuple[Any, ...]]] = {"verbosity": ("medium",)}

    format: TextFormat | None = None


class Reasoning(StrictBody):
    """Effort of the reasoning. No summary of it is made."""

    effort: Effort | None = None
    summary: Any = None
    generate_summary: Any = None


class ResponsesBody(StrictBody):
    """`POST /v1/responses`."""

    neutral: ClassVar[dict[str, tuple[Any, ...]]] = {"background": (False,), "truncation": ("disabled",)}

    model: ModelName
    input: str | Annotated[list[Item], FEW] = Field(default_factory=list)
    instructions: str | None = None
    previous_response_id: Annotated[str, Field(min_length=1, max_length=60)] | None = None
    store: bool | None = None
    metadata: OpenObject | None = None
    max_output_tokens: TokenCount | None = None
    max_tool_calls: Any = None  # limits the provider's own tools, of which there are none
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    include: Annotated[list[str], FEW] | None = None
    tools: Annotated[list[ResponseTool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: Any = None

    @field_validator("tool_choice")
    @classmethod
    def _with_tools(cls, value: Any, info: Any) -> Any:
        _choose(value, info.data.get("tools"))
        return value

    @property
    def items(self) -> list[JsonObject]:
        """Return the input of this turn as items."""
        if isinstance(self.input, str):
            return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": self.input}]}]
        return [item.model_dump() for item in self.input]

    @property
    def wants_logprobs(self) -> bool:
        """Return whether probabilities are asked for."""
        return LOGPROBS in (self.include or ())

    def to_request(self, before: Sequence[dict[str, object]] = ()) -> GenerateRequest:
        """Return the request for a replica; `before` are the items of the turns that it follows. Raises ApiError for an
        empty one.
        """
        messages = to_messages([*before, *self.items], instructions=self.instructions)
        if not messages:
            raise ApiError(400, "input: give at least one message", code="invalid_value", param="input")
        return GenerateRequest(
            messages=tuple(messages),
            tools=tuple(tool.as_template_tool() for tool in self.tools) if self.tools else None,
            tool_choice=_choose(self.tool_choice, self.tools),
            parallel_tool_calls=self.parallel_tool_calls is not False,
            params=SamplingParams(
                max_tokens=self.max_output_tokens,
                temperature=1.0 if self.temperature is None else self.temperature,
                top_p=1.0 if self.top_p is None else self.top_p,
                logprobs=(self.top_logprobs or 0) if self.wants_logprobs else None,
                constraint=self.constraint(),
            ),
            split=True,
            effort=self.reasoning.effort if self.reasoning else None,
        )

    def constraint(self) -> Constraint | None:
        """Return the form that the answer must have. Raises ApiError for a schema that is missing or too long."""
        form = self.text.format if self.text else None
        if form is None or form.type == "text":
            return None
        if form.type == "json_object":
            return Constraint(kind="json_object")
        return schema_constraint(form.json_schema, param="text.format.schema")


def _choose(choice: Any, tools: list[ResponseTool] | None) -> ToolChoice:
    names = {tool.name for tool in tools or ()}
    if isinstance(choice, FunctionChoice):
        return choose_tool("required", choice.name, names)
    return choose_tool(choice or "auto", None, names)


def to_messages(items: Sequence[dict[str, object]], *, instructions: str | None) -> list[ChatMessage]:
    """Return items as messages. System prompts at the beginning are one message, as many templates take one."""
    system = [instructions] if instructions else []
    messages = list(_merged(ITEMS.validate_python(list(items))))
    while messages and messages[0].role is Role.SYSTEM:
        system.append(messages.pop(0).content)
    return [*([ChatMessage(role=Role.SYSTEM, content="\n\n".join(system))] if system else []), *messages]


def _merged(items: Sequence[Item]) -> Iterator[ChatMessage]:
    """Yield messages; an assistant's text and the calls after it are one."""
    text: str | None = None
    calls: list[dict[str, object]] = []

    def take() -> Iterator[ChatMessage]:
        nonlocal text, calls
        if text is not None or calls:
            yield ChatMessage(role=Role.ASSISTANT, content=text or "", tool_calls=tuple(calls))
        text, calls = None, []

    for item in items:
        if isinstance(item, CallItem):
            calls.append(template_call(item.call_id, item.name, item.arguments))
        elif isinstance(item, ResultItem):
            yield from take()
            yield ChatMessage(role=Role.TOOL, content=_text(item.output), tool_call_id=item.call_id)
        elif isinstance(item, MessageItem):
            yield from take()
            if item.role == "assistant":
                text = _text(item.content)
            else:
                yield ChatMessage(role=Role.USER if item.role == "user" else Role.SYSTEM, content=_text(item.content))
    yield from take()


def _text(content: str | Annotated[list[TextItem], FEW]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)
