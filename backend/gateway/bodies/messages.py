"""Messages and tools as OpenAI's clients send them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator

from backend.domain.serving.protocol import ChatMessage, Role, ToolChoice
from backend.gateway.bodies.fields import FEW, OpenObject

FunctionName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\w.-]+$")]


class TextPart(BaseModel):
    """A part of a message; only text is served."""

    type: Literal["text"]
    text: str

    @field_validator("type", mode="before")
    @classmethod
    def _is_text(cls, value: object) -> object:
        if value != "text":
            raise ValueError("only text is served, and no images, audio or files")
        return value


class CalledFunction(BaseModel):
    """The function of a call: its name, and its arguments as JSON text."""

    name: FunctionName
    arguments: str = "{}"


class ToolCallBody(BaseModel):
    """A call that an assistant's message made."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class MessageBody(BaseModel):
    """One message, as OpenAI's clients send it."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str | Annotated[list[TextPart], FEW] | None, Field(validate_default=True)] = None
    tool_calls: Annotated[list[ToolCallBody], FEW] | None = None
    tool_call_id: str | None = None
    name: str | None = None

    @field_validator("content")
    @classmethod
    def _has_content(cls, value: Any, info: Any) -> Any:
        if value is None and info.data.get("role") != "assistant":
            raise ValueError("give a string or a list of text parts")
        return value

    def to_message(self) -> ChatMessage:
        """Return the message with its parts joined; `developer` is what newer clients call `system`."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or ())
        return ChatMessage(
            role=Role.SYSTEM if self.role == "developer" else Role(self.role),
            content=text,
            tool_calls=tuple(call.model_dump(exclude_none=True) for call in self.tool_calls or ()),
            tool_call_id=self.tool_call_id,
            name=self.name,
        )


class FunctionBody(BaseModel):
    """A function that an answer may call; `parameters` is a JSON schema."""

    name: FunctionName
    description: str | None = None
    parameters: OpenObject | None = None


class ToolBody(BaseModel):
    """A tool; only functions are served."""

    type: Literal["function"]
    function: FunctionBody

    def as_template_tool(self) -> dict[str, object]:
        """Return the tool as chat templates expect it."""
        return template_tool(self.function.name, self.function.description, self.function.parameters)


class NamedFunction(BaseModel):
    """The function that must be called."""

    name: FunctionName


class NamedTool(BaseModel):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


ToolChoiceBody = Literal["none", "auto", "required"] | NamedTool


def to_tool_choice(choice: ToolChoiceBody | None, tools: list[ToolBody] | None) -> ToolChoice:
    """Return a body's choice of tools. Raises ValueError if it requires a tool that is not given."""
    names = {tool.function.name for tool in tools or ()}
    if isinstance(choice, NamedTool):
        return choose_tool("required", choice.function.name, names)
    return choose_tool(choice or "auto", None, names)


def choose_tool(
    mode: Literal["none", "auto", "required"], name: str | None, names: Collection[str], *, word: str = "required"
) -> ToolChoice:
    """Return a choice of tools, of which there are `names`; `word` is what the API calls `required`.

    Raises ValueError if it requires a tool that is not given.
    """
    if name is not None and name not in names:
        raise ValueError(f"{name!r} is not one of the tools")
    if mode == "required" and not names:
        raise ValueError(f"{word!r} needs at least one tool")
    return ToolChoice(mode=mode, name=name)


def template_tool(name: str, description: str | None, parameters: Mapping[str, object] | None) -> dict[str, object]:
    """Return a tool as chat templates expect it."""
    schema = parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": {"name": name, "description": description or "", "parameters": schema}}


def template_call(id_: str, name: str, arguments: str) -> dict[str, object]:
    """Return a call of an assistant's message as chat templates expect it; the arguments are JSON."""
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}
