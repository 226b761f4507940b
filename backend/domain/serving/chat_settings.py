"""Settings of a chat's next turn: endpoints, system prompt, sampling, schema and tools. Behind form, API and row."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from backend.domain.data.rows.problem import RowProblem
from backend.domain.data.rows.tool_calls import tools_text
from backend.domain.json_values import JsonObject
from backend.domain.serving.protocol import (
    MAX_REPETITION_PENALTY,
    MAX_SEED,
    MIN_REPETITION_PENALTY,
    ChatMessage,
)
from backend.domain.validation import is_stored

MAX_COLUMNS = 4
MAX_SYSTEM = 20_000
MAX_JSON = 20_000
FILTERS = ("top_k", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty")
"""Settings that are sent only if they are not off: another server may not know them."""

TOOL_NAME = re.compile(r"[\w.-]{1,128}")


class AnswerSettings(BaseModel):
    """Settings of an answer; a preset holds them. `token_view` stores probabilities."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    system: str = Field(default="", max_length=MAX_SYSTEM)
    temperature: float = Field(default=0.8, ge=0.0, le=2.0)
    top_p: float = Field(default=0.95, gt=0.0, le=1.0)
    max_tokens: int = Field(default=160, ge=1, le=100_000)
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    top_k: int = Field(default=0, ge=0, le=1000)
    min_p: float = Field(default=0.0, ge=0.0, le=1.0)
    repetition_penalty: float = Field(default=1.0, ge=MIN_REPETITION_PENALTY, le=MAX_REPETITION_PENALTY)
    frequency_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    presence_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    stop: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = Field(default=(), max_length=4)
    json_schema: str = Field(
        default="", max_length=MAX_JSON, description="A JSON schema that the answer must follow; empty for free text."
    )
    tools: str = Field(
        default="", max_length=MAX_JSON, description="A JSON list of tools in OpenAI's format; empty for none."
    )
    token_view: bool = False

    @field_validator("json_schema")
    @classmethod
    def _can_be_followed(cls, value: str, info: ValidationInfo) -> str:
        text = _checked_json(value, dict, 'a JSON object, such as {"type": "object"}')
        if text and not is_stored(info):
            _check_schema(text)
        return text

    @field_validator("tools")
    @classmethod
    def _can_be_called(cls, value: str, info: ValidationInfo) -> str:
        text = _checked_json(value, list, "a JSON list of tools")
        if text and not is_stored(info):
            _check_tools(text)
        return text


class SideSettings(AnswerSettings):
    """Settings that one of several answers side by side has of its own: the fields that were set."""

    @property
    def changes(self) -> dict[str, Any]:
        """Return the fields that were set."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}

    @model_serializer(mode="wrap")
    def _set_alone(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if name in self.model_fields_set}


class TurnSettings(AnswerSettings):
    """Settings of a conversation's last turn as its row keeps them: `endpoints` is empty before the first. The system
    text has a column of its own. `blind` hides names and figures of side-by-side answers until the vote. `sides` are
    the settings that each endpoint has of its own, in the order of the endpoints; empty where all have the same.
    """

    endpoints: tuple[str, ...] = ()
    blind: bool = False
    sides: tuple[SideSettings, ...] = Field(default=(), max_length=MAX_COLUMNS)

    def dump(self) -> dict[str, object]:
        """Return the stored form."""
        return self.model_dump(mode="json", exclude={"system"})


class ChatSettings(TurnSettings):
    """Settings of a turn."""

    endpoints: tuple[str, ...] = Field(min_length=1, max_length=MAX_COLUMNS)

    @field_validator("endpoints")
    @classmethod
    def _named(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(not name or len(name) > 80 for name in value):
            raise ValueError("an endpoint's name has 1 to 80 characters")
        return value

    @property
    def differ(self) -> bool:
        """Return whether a side has settings of its own."""
        return any(side.changes for side in self.sides)

    def own(self, column: int) -> SideSettings:
        """Return what the answer in a column has of its own."""
        return self.sides[column] if column < len(self.sides) else SideSettings()

    def of_side(self, column: int) -> Self:
        """Return the settings of the answer in a column."""
        return self.model_copy(update=self.own(column).changes)

    @property
    def fixed_text(self) -> str:
        """Return the most that a prompt holds beside the conversation, to estimate its tokens."""
        sides = [self.of_side(column) for column in range(len(self.endpoints))]
        return max((side.system + side.tools for side in sides), key=len)

    def body(self, endpoint: str, messages: tuple[ChatMessage, ...]) -> JsonObject:
        """Return the body of `POST /v1/chat/completions` for one endpoint."""
        body: dict[str, object] = {
            "model": endpoint,
            "messages": [message.as_dict() for message in messages],
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
        }
        fields = type(self).model_fields
        optional = {
            **{name: value for name in FILTERS if (value := getattr(self, name)) != fields[name].default},
            "seed": self.seed,
            "stop": list(self.stop) or None,
            "tools": json.loads(tools_text(self.tools) or "null"),
            "response_format": _response_format(self.json_schema),
            "logprobs": True if self.token_view else None,
            "top_logprobs": 5 if self.token_view else None,
        }
        return body | {name: value for name, value in optional.items() if value is not None}


def _response_format(schema: str) -> dict[str, object] | None:
    if not schema:
        return None
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": json.loads(schema), "strict": True}}


def _checked_json(text: str, kind: type, what: str) -> str:
    text = text.strip()
    if not text:
        return ""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(value, kind):
        raise ValueError(f"must be {what}")
    return text


def _check_schema(text: str) -> None:
    """Raise ValueError with the reason why replicas can't hold an answer to a schema. They use the same library."""
    from llguidance import LLMatcher

    try:
        problem = LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(text))
    except (ValueError, RecursionError) as error:
        problem = str(error)
    if problem:
        raise ValueError(f"answers can't follow this schema: {problem.splitlines()[0][:200]}")


def _check_tools(text: str) -> None:
    try:
        tools = json.loads(tools_text(text) or "[]")
    except RowProblem as problem:
        raise ValueError(str(problem)) from problem
    for number, function in enumerate((tool["function"] for tool in tools), start=1):
        if not TOOL_NAME.fullmatch(function["name"]):
            raise ValueError(f"tool {number} is named {function['name'][:40]!r}; use letters, digits, '_', '-' and '.'")
        if not isinstance(function.get("parameters", {}), dict):
            raise ValueError(f"the parameters of {function['name']} must be a JSON schema")
        if not isinstance(function.get("description", ""), str):
            raise ValueError(f"the description of {function['name']} must be text")
