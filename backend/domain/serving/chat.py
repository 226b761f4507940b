"""Chats of the playground: settings of the next turn (endpoints, system prompt, sampling, schema and tools), behind
form, API and row, and their words; the tree of a conversation's messages; and what is stored beside a message's text.
Pure rules.

Edits and regenerated answers are branches of the tree, of which one line is selected. Children of a message are
numbered in rounds: an edit of a question and a regenerated answer begin a new round. Answers of one round stand side
by side.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NotRequired, Protocol, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
)
from typing_extensions import TypedDict

from backend.domain.data.rows.problem import RowProblem
from backend.domain.data.rows.tool_calls import tools_text
from backend.domain.json_values import JsonObject
from backend.domain.serving.protocol import (
    MAX_REPETITION_PENALTY,
    MAX_SEED,
    MIN_REPETITION_PENALTY,
    ChatMessage,
    on_one_line,
)
from backend.domain.validation import StoredRecord, is_stored
from backend.domain.wording import plural, shorten

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
        raise ValueError(f"answers can't follow this schema: {on_one_line(problem)}")


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


SHOWN_SYSTEM = 80
"""Characters of a system prompt that are shown beside other settings."""

FILTER_LABELS = {
    "top_k": "Top k",
    "min_p": "Min p",
    "frequency_penalty": "Frequency penalty",
    "presence_penalty": "Presence penalty",
    "repetition_penalty": "Repetition penalty",
}


def setting_words(settings: AnswerSettings) -> dict[str, str]:
    """Return what each setting says, by field, without the system prompt."""
    return {
        "temperature": f"Temperature {settings.temperature:g}" if settings.temperature else "Greedy",
        "top_p": f"Top p {settings.top_p:g}",
        "max_tokens": f"At most {plural(settings.max_tokens, 'token')}",
        **{name: f"{label} {getattr(settings, name):g}" for name, label in FILTER_LABELS.items()},
        "seed": "Random seed" if settings.seed is None else f"Seed {settings.seed}",
        "stop": "Stops at " + ", ".join(f"“{escaped(text)}”" for text in settings.stop)
        if settings.stop
        else "No stops",
        "token_view": "Token probabilities" if settings.token_view else "No token probabilities",
        "json_schema": "JSON schema" if settings.json_schema else "No JSON schema",
        "tools": "Tools" if settings.tools else "No tools",
    }


def system_words(settings: AnswerSettings) -> str:
    """Return the beginning of the system prompt."""
    line = " ".join(settings.system.split())
    return f"System prompt: {shorten(line, SHOWN_SYSTEM)}" if line else "No system prompt"


def own_words(own: SideSettings | None) -> list[str]:
    """Return what an answer beside others had of its own."""
    if own is None:
        return []
    words = setting_words(own) | {"system": system_words(own)}
    return [words[field] for field in own.changes]


def escaped(text: str) -> str:
    """Return a stop string on one line."""
    return text.replace("\n", "\\n")


class TreeMessage(Protocol):
    """The fields of a message that the rules read."""

    @property
    def id(self) -> str:
        """Return its id."""

    @property
    def parent_id(self) -> str | None:
        """Return the message that it answers; None for the first."""

    @property
    def round(self) -> int:
        """Return its round among the children of its parent, from 0."""

    @property
    def branch(self) -> int:
        """Return its column within the round, from 0."""


M = TypeVar("M", bound=TreeMessage)


@dataclass(frozen=True)
class TreeLevel:
    """One level of the selected line: the messages of its round by column, and the rounds that exist beside it."""

    selected: str
    messages: tuple[str, ...]
    rounds: tuple[int, ...]
    round: int


def selected_line(messages: Sequence[M], leaf_id: str | None) -> list[TreeLevel]:
    """Return the line from the first message to a leaf; to the newest leaf for None or an unknown one."""
    by_id = {message.id: message for message in messages}
    leaf = by_id.get(leaf_id or "") or (by_id[newest_leaf(messages, None)] if messages else None)
    line: list[M] = []
    while leaf is not None and len(line) <= len(messages):
        line.append(leaf)
        leaf = by_id.get(leaf.parent_id or "")
    children = _children(messages)
    return [
        _step(message, children[message.parent_id if message.parent_id in by_id else None])
        for message in reversed(line)
    ]


def newest_leaf(messages: Sequence[M], start: str | None) -> str:
    """Return the leaf below a message (from the root for None) that newest rounds lead to. Of columns, the one that was
    answered wins.
    """
    children = _children(messages)
    at = start
    while below := children.get(at):
        newest = max(message.round for message in below)
        columns = sorted((message for message in below if message.round == newest), key=lambda message: message.branch)
        at = next((message.id for message in columns if children.get(message.id)), columns[0].id)
    return at or ""


def next_round(messages: Sequence[M], parent_id: str | None) -> int:
    """Return the number of a new round of children."""
    return max((message.round for message in messages if message.parent_id == parent_id), default=-1) + 1


def leaf_of_round(messages: Sequence[M], message_id: str, round_: int) -> str | None:
    """Return the leaf to select for another round beside a message; None if there is no such round."""
    parent = next((message.parent_id for message in messages if message.id == message_id), None)
    columns = sorted(
        (m for m in messages if m.parent_id == parent and m.round == round_), key=lambda message: message.branch
    )
    if not columns:
        return None
    answered = {message.parent_id for message in messages}
    return newest_leaf(messages, next((message.id for message in columns if message.id in answered), columns[0].id))


def _children(messages: Sequence[M]) -> Mapping[str | None, list[M]]:
    known = {message.id for message in messages}
    children: dict[str | None, list[M]] = {}
    for message in messages:
        children.setdefault(message.parent_id if message.parent_id in known else None, []).append(message)
    return children


def _step(message: M, siblings: Sequence[M]) -> TreeLevel:
    columns = sorted((other for other in siblings if other.round == message.round), key=lambda other: other.branch)
    return TreeLevel(
        selected=message.id,
        messages=tuple(other.id for other in columns),
        rounds=tuple(sorted({other.round for other in siblings})),
        round=message.round,
    )


class CalledTool(TypedDict):
    """A call of a tool as it arrived: `arguments` is JSON, which may be cut off."""

    id: str
    name: str
    arguments: str


class AnswerToken(TypedDict):
    """A token of an answer with its log-probability and the likeliest ones. `bytes`: of part of a character."""

    text: str
    logprob: float | None
    top: list[tuple[str, float | None]]
    bytes: NotRequired[list[int]]


class AnswerUsage(StoredRecord):
    """Figures of an answer, how it ended, and the tools that it calls; of a tool's result, which call it answers.

    `blind`: not shown before the vote. `own`: settings that this answer alone had of those side by side. `left_out`:
    turns that did not fit the context. `request_id` is the gateway's. `cost_usd` and `canary`, the revision that
    answered in place of the stable one, are added when it is read.
    """

    blind: bool = False
    own: SideSettings | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    left_out: int = 0
    ttft_ms: float | None = None
    tok_per_sec: float | None = None
    total_ms: float | None = None
    cost_usd: float | None = None
    canary: str | None = None
    request_id: str | None = None
    finish_reason: str | None = None
    error: str | None = None
    error_code: str | None = None
    reasoning: str = ""
    tool_calls: tuple[CalledTool, ...] = ()
    tool_call_id: str | None = None
    tool: str | None = None

    @property
    def given(self) -> dict[str, Any]:
        """Return what was decided before the answer began, and stays."""
        return {name: getattr(self, name) for name in ("blind", "own") if getattr(self, name)}
