"""The text of an answer, split as it streams into reasoning, calls of tools and the rest. Tools are called in three
ways, whose arguments are read as they stream:

    hermes    <tool_call>\\n{"name": ..., "arguments": {...}}\\n</tool_call>, repeated   (Hermes, Qwen, SmolLM, this
              project's own templates)
    mistral   [TOOL_CALLS] [{"name": ..., "arguments": {...}}, ...]  or  [TOOL_CALLS]name[ARGS]{...}
    llama     {"name": ..., "parameters": {...}} as the answer's only text, after <|python_tag|> or nothing   (Llama 3)

Chat templates that have no place for tools get them in the messages, in the format of Hermes and Qwen.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from backend.domain.data.rows.tool_calls import arguments_of
from backend.domain.json_values import JsonObject
from backend.domain.serving.protocol import Constraint, ToolCallDelta, ToolChoice

TOOL_CALL, TOOL_CALL_END = "<tool_call>", "</tool_call>"
TOOL_CALLS, ARGUMENTS_MARK = "[TOOL_CALLS]", "[ARGS]"
PYTHON_TAG = "<|python_tag|>"
MARKS = (TOOL_CALL, TOOL_CALL_END, TOOL_CALLS, ARGUMENTS_MARK, PYTHON_TAG)
"""Texts that stay visible to the reader where they are special tokens."""
EMPTY_KEYS = {"type", "properties", "required", "title", "description", "$schema"}
"""Keys of a schema that say nothing of further properties."""


class CallStyle(StrEnum):
    """The way in which a network writes calls."""

    HERMES = "hermes"
    MISTRAL = "mistral"
    LLAMA = "llama"


def call_style(template: str) -> CallStyle:
    """Return the way in which a chat template writes calls; Hermes' for one that shows none."""
    if TOOL_CALLS in template:
        return CallStyle.MISTRAL
    if TOOL_CALL not in template and ('"parameters": ' in template or PYTHON_TAG in template):
        return CallStyle.LLAMA
    return CallStyle.HERMES


def forced_opening(style: CallStyle) -> str:
    """Return the text with which a forced call begins; it ends the prompt."""
    return {CallStyle.HERMES: f"{TOOL_CALL}\n", CallStyle.MISTRAL: f"{TOOL_CALLS} [", CallStyle.LLAMA: ""}[style]


def forced_call(tools: Sequence[JsonObject], choice: ToolChoice, style: CallStyle) -> Constraint:
    """Return the form of one call of any of the tools, or of the named one."""
    key = "parameters" if style is CallStyle.LLAMA else "arguments"
    functions = [tool["function"] for tool in tools if choice.name in (None, tool["function"]["name"])]
    forms = [
        {
            "type": "object",
            "properties": {"name": {"const": function["name"]}, key: arguments_schema(function)},
            "required": ["name", key],
            "additionalProperties": False,
        }
        for function in functions
    ]
    return Constraint(kind="json_schema", value=json.dumps(forms[0] if len(forms) == 1 else {"anyOf": forms}))


def arguments_schema(function: JsonObject) -> JsonObject:
    """Return the schema of a function's arguments. Without `parameters`, or with an empty list of properties, there are
    none; JSON Schema alone would allow any.
    """
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    is_empty = schema.get("properties") == {} and not schema.get("required") and schema.keys() <= EMPTY_KEYS
    return {**schema, "additionalProperties": False} if is_empty else schema


class CallReader:
    """Reads one call's JSON object from a stream of text.

    `push` returns the pieces of the call that became known: its name first, then its arguments as they come. `is_done`
    after the closing brace, `rest` is the text behind it. `has_failed` if the text is no call; `raw` is all that was
    read.
    """

    def __init__(self, index: int, *, name: str | None = None) -> None:
        self._index = index
        self.raw = ""
        self.rest = ""
        self.is_done = False
        self.has_failed = False
        self._name = name
        self._is_bare = name is not None  # the object is the arguments alone
        self._position = 0
        self._depth = 0
        self._in_string = self._is_escaped = False
        self._key: str | None = None
        self._string_from = self._value_from = -1
        self._arguments: tuple[int, int | None] | None = None
        self._sent: int | None = None

    def push(self, text: str) -> list[ToolCallDelta]:
        """Read more text."""
        if self.is_done or self.has_failed:
            self.rest += text
            return []
        self.raw += text
        while self._position < len(self.raw) and not self.is_done and not self.has_failed:
            self._read(self.raw[self._position], self._position)
            self._position += 1
        if self.is_done:
            self.raw, self.rest = self.raw[: self._position], self.raw[self._position :]
            if self._name is None:
                self.has_failed = True
        return [] if self.has_failed else self._deltas()

    def _read(self, char: str, at: int) -> None:
        if self._in_string:
            self._read_in_string(char, at)
        elif char == '"':
            self._in_string, self._string_from = True, at
        elif self._depth == 0:
            if char == "{":
                self._depth = 1
                if self._is_bare:
                    self._arguments = (at, None)
            elif not char.isspace():
                self.has_failed = True
            return
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1
        if self._depth == 1 and char == ":" and not self._in_string and self._value_from < 0:
            self._value_from = at + 1
            if self._key in ("arguments", "parameters") and not self._is_bare:
                self._arguments = (at + 1, None)
        elif char in ",}" and not self._in_string and self._depth == (1 if char == "," else 0):
            self._end_value(at)
        if self._depth == 0:
            self.is_done = True
            if self._is_bare:
                self._arguments = (self._arguments[0] if self._arguments else 0, at + 1)

    def _read_in_string(self, char: str, at: int) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif char == "\\":
            self._is_escaped = True
        elif char == '"':
            self._in_string = False
            if self._depth == 1 and self._value_from < 0:
                self._key = self.raw[self._string_from + 1 : at]

    def _end_value(self, at: int) -> None:
        """Note the value of a key of the call itself."""
        if self._value_from >= 0 and self._key == "name" and not self._is_bare:
            try:
                name = json.loads(self.raw[self._value_from : at])
            except ValueError:
                name = None
            self._name = name if isinstance(name, str) and name else None
            self.has_failed = self._name is None
        elif self._value_from >= 0 and self._arguments is not None and self._arguments[1] is None and not self._is_bare:
            self._arguments = (self._arguments[0], at)
        self._key, self._value_from = None, -1

    def _deltas(self) -> list[ToolCallDelta]:
        if self._name is None:
            return []
        deltas = []
        if self._sent is None:
            deltas.append(ToolCallDelta(index=self._index, id=f"call_{secrets.token_hex(12)}", name=self._name))
            self._sent = 0
        pending = self._pending_arguments()
        if pending:
            deltas.append(ToolCallDelta(index=self._index, arguments=pending))
        return deltas

    def _pending_arguments(self) -> str:
        if self._arguments is None:
            pending = "{}" if self.is_done and not self._sent else ""
            self._sent = len(pending)
            return pending
        start, end = self._arguments
        text = self.raw[start : self._position if end is None else end].lstrip()
        if text.startswith('"'):  # some networks write the arguments as JSON text
            if end is None:
                return ""
            text = str(json.loads(text)) if self._sent == 0 else text
        pending, self._sent = text[self._sent or 0 :], len(text)
        return pending


Message = JsonObject


def write_tools(messages: Sequence[Message], tools: Sequence[dict[str, object]] | None) -> list[Message]:
    """Return messages with tools in the system message, calls in the assistant's text, results as the user's text."""
    written = [_as_text(message) for message in messages]
    if not tools:
        return written
    offered = "\n".join(
        [
            "You may call these tools:",
            "<tools>",
            *(json.dumps(tool, ensure_ascii=False) for tool in tools),
            "</tools>",
            "To call one, write",
            "<tool_call>",
            '{"name": "its name", "arguments": {"an argument": "its value"}}',
            "</tool_call>",
        ]
    )
    if written and written[0]["role"] == "system":
        return [{**written[0], "content": f"{written[0]['content']}\n\n{offered}"}, *written[1:]]
    return [{"role": "system", "content": offered}, *written]


def _as_text(message: Message) -> Message:
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    if not message.get("tool_calls"):
        return message
    calls = [
        "<tool_call>\n"
        + json.dumps({"name": call["function"]["name"], "arguments": arguments_of(call)}, ensure_ascii=False)
        + "\n</tool_call>"
        for call in message["tool_calls"]
    ]
    return {
        "role": message["role"],
        "content": "\n".join([message["content"], *calls] if message["content"] else calls),
    }


THINK, THINK_END = "<think>", "</think>"
OPENINGS = {CallStyle.HERMES: TOOL_CALL, CallStyle.MISTRAL: TOOL_CALLS, CallStyle.LLAMA: PYTHON_TAG}


@dataclass(frozen=True)
class AnswerPiece:
    """New parts of an answer."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[ToolCallDelta, ...] = ()


class AnswerSplitter:
    """Splits one answer. `style` is None where no tools are offered; `names` are their names.

    `is_reasoning` if the prompt opened the reasoning, `is_calling` if it opened a call. Text that begins like a call
    and is none stays text.
    """

    def __init__(
        self,
        style: CallStyle | None,
        *,
        names: Collection[str] = (),
        is_reasoning: bool = False,
        is_calling: bool = False,
    ) -> None:
        self._style, self._names = style, frozenset(names)
        self._buffer = ""
        self._state = "thinking" if is_reasoning else "between" if is_calling else "start"
        self._reader: CallReader | None = None
        self.num_calls = 0
        self.num_complete = 0

    def push(self, text: str) -> AnswerPiece:
        """Read more text; return the parts that are certain."""
        self._buffer += text
        return self._run(final=False)

    def finish(self) -> AnswerPiece:
        """Return the withheld parts at the end of the answer."""
        return self._run(final=True)

    def _run(self, *, final: bool) -> AnswerPiece:
        texts, reasonings, calls = list[str](), list[str](), list[ToolCallDelta]()
        while True:
            before = (self._state, len(self._buffer))
            if self._state == "start":
                self._begin(final=final)
            elif self._state == "thinking":
                self._buffer = self._buffer.lstrip("\n")
                self._state = "reasoning" if self._buffer else "thinking"
            elif self._state == "reasoning":
                reasonings.append(self._until(THINK_END, then="after", final=final))
            elif self._state == "after":
                self._buffer = self._buffer.lstrip()
                self._state = "start" if self._buffer else "after"
            elif self._state == "text":
                opening = OPENINGS[self._style] if self._style is not None else None
                texts.append(self._buffer if opening is None else self._until(opening, then="between", final=final))
                self._buffer = "" if opening is None else self._buffer
            elif self._state == "between":
                texts.append(self._between(final=final))
            elif self._state == "call":
                calls += self._call(texts, final=final)
            if (self._state, len(self._buffer)) == before:
                break
        return AnswerPiece("".join(texts), "".join(reasonings), tuple(calls))

    def _begin(self, *, final: bool) -> None:
        """Decide what an answer, or what follows its reasoning, begins with."""
        bare = self._buffer.lstrip()
        if bare.startswith(THINK):
            self._buffer, self._state = bare[len(THINK) :], "thinking"
        elif not final and (not bare or THINK.startswith(bare)):
            return
        elif self._style is CallStyle.LLAMA and bare.startswith("{"):
            self._buffer, self._state, self._reader = bare, "call", CallReader(self.num_calls)
        else:
            self._state = "text"

    def _until(self, mark: str, *, then: str, final: bool) -> str:
        """Take the text before a mark, and what can't be the beginning of one."""
        at = self._buffer.find(mark)
        if at >= 0:
            text, self._buffer, self._state = self._buffer[:at], self._buffer[at + len(mark) :], then
            return text.rstrip("\n")
        size = next(
            (n for n in range(min(len(self._buffer), len(mark) - 1), 0, -1) if mark.startswith(self._buffer[-n:])), 0
        )
        # line breaks before a mark belong to it
        size = len(self._buffer) - len(self._buffer[: len(self._buffer) - size].rstrip("\n"))
        text = self._buffer if final else self._buffer[: len(self._buffer) - size]
        self._buffer = self._buffer[len(text) :]
        return text

    def _between(self, *, final: bool) -> str:
        """Find where the next call begins, or the text after the last one."""
        bare = self._buffer.lstrip()
        closers = {CallStyle.HERMES: (TOOL_CALL_END, TOOL_CALL), CallStyle.MISTRAL: ("[", ",", "]")}.get(
            self._style or CallStyle.LLAMA, (";",)
        )
        mark = next((closer for closer in closers if bare.startswith(closer)), None)
        if mark is not None:
            self._buffer = bare[len(mark) :]
        elif bare.startswith("{"):
            self._buffer, self._state, self._reader = bare, "call", CallReader(self.num_calls)
        elif not bare or (not final and any(closer.startswith(bare) for closer in closers)):
            self._buffer = "" if final else self._buffer
        elif self._style is CallStyle.MISTRAL and ("{" in bare or not final):
            name, brace, rest = bare.partition("{")
            if brace:
                reader = CallReader(self.num_calls, name=name.removesuffix(ARGUMENTS_MARK).strip())
                self._buffer, self._state, self._reader = brace + rest, "call", reader
        else:
            self._state = "text"
            self._buffer = bare
        return ""

    def _call(self, texts: list[str], *, final: bool) -> list[ToolCallDelta]:
        """Read the running call; one of no offered tool becomes text again."""
        reader = self._reader
        if reader is None:
            raise RuntimeError("a call is read without its reader")
        deltas = reader.push(self._buffer)
        self._buffer = ""
        is_unknown = bool(deltas and deltas[0].name and self._names and deltas[0].name not in self._names)
        if reader.has_failed or is_unknown or (final and not reader.is_done and not self._is_open(deltas)):
            texts.append(reader.raw + reader.rest)
            self._state, self._style, self._reader = "text", None, None
            return []
        self.num_calls = max(self.num_calls, *(delta.index + 1 for delta in deltas)) if deltas else self.num_calls
        if reader.is_done:
            self.num_complete += 1
            self._buffer, self._state, self._reader = reader.rest, "between", None
        return deltas

    def _is_open(self, deltas: list[ToolCallDelta]) -> bool:
        """Return whether the client already knows of the running call."""
        return bool(deltas) or self.num_calls > self.num_complete
