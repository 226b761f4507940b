"""Render canonical rows as text: complete for measuring, or laid out for reading."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.domain.data.rows.records import RECORD, texts_of
from backend.domain.data.rows.tool_calls import call_text, tools_of
from backend.domain.data.rows.values import cell_text
from backend.domain.json_values import JsonObject

_TURNING = {code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
"""Bidirectional control characters are shown as codes: on a page they would hide the text after them."""


def displayable(text: str) -> str:
    """Return a text as a page may show it: characters that turn the direction of what follows, and lone surrogates,
    which can't be sent to a browser, as their codes.
    """
    return text.translate(_TURNING).encode("utf-8", "backslashreplace").decode()


def message_text(message: Mapping[str, Any]) -> str:
    """Return a message's text, followed by its tool calls, a line each."""
    return "\n".join(
        part for part in (str(message.get("content") or ""), *map(call_text, message.get("tool_calls") or [])) if part
    )


def row_text(row: Mapping[str, Any]) -> str:
    """Return all text of a canonical row, in reading order, without labels and without the list of tools."""
    parts: list[str] = []
    if list(row) == [RECORD]:
        return "\n".join(texts_of(json.loads(row[RECORD])))
    for name, value in row.items():
        if isinstance(value, str) and name not in ("tools", RECORD):
            parts.append(value)
        elif isinstance(value, list):
            parts += [message_text(part) if isinstance(part, Mapping) else part for part in value]
    return "\n".join(parts)


@dataclass(frozen=True)
class RowTurn:
    """A part of a row in reading order: a message of `role`, or the field of that name. `calls` are tool calls;
    `is_right` marks the right choice of a question.
    """

    role: str
    text: str
    calls: tuple[str, ...] = ()
    is_right: bool = False


@dataclass(frozen=True)
class RowLayout:
    """A row as it is laid out for reading: the tools offered, what is said, and answers to it beside each other, each
    with its name (`chosen`, `rejected`, `good`, `bad`).
    """

    turns: tuple[RowTurn, ...]
    sides: tuple[tuple[str, tuple[RowTurn, ...]], ...] = ()
    tools: tuple[str, ...] = ()


def lay_out(row: Mapping[str, Any]) -> RowLayout:
    """Return the parts of a canonical row as they are read."""
    tools = tuple(str(tool["function"].get("name")) for tool in tools_of(dict(row)) or ())
    if "messages" in row:
        return RowLayout(_said(row["messages"]), tools=tools)
    if "chosen" in row:
        sides = tuple((side, _said(row[side])) for side in ("chosen", "rejected"))
        return RowLayout(_said(row["prompt"]), sides, tools)
    if "label" in row:
        return RowLayout(_said(row["prompt"]), (("good" if row["label"] else "bad", _said(row["completion"])),), tools)
    if "choices" in row:
        choices = (
            RowTurn(chr(65 + place % 26), str(choice), is_right=place == row["answer"])
            for place, choice in enumerate(row["choices"])
        )
        return RowLayout((RowTurn("question", row["question"]), *choices))
    if "answers" in row:
        answers = (RowTurn("answer", str(answer), is_right=True) for answer in row["answers"])
        return RowLayout((RowTurn("question", row["question"]), *answers))
    if "completion" in row:
        return RowLayout((RowTurn("user", str(row["prompt"])), RowTurn("assistant", str(row["completion"]))))
    if "prompt" in row:
        return RowLayout((RowTurn("user", str(row["prompt"])),))
    if RECORD in row:
        return RowLayout(tuple(RowTurn(str(name), cell_text(value)) for name, value in json.loads(row[RECORD]).items()))
    return RowLayout((RowTurn("", str(row.get("text", ""))),))


def _said(messages: Sequence[Mapping[str, Any]]) -> tuple[RowTurn, ...]:
    return tuple(
        RowTurn(
            str(message["role"]),
            str(message.get("content") or ""),
            tuple(map(call_text, message.get("tool_calls") or [])),
        )
        for message in messages
    )


def render_preview(row: Mapping[str, Any]) -> str:
    """Show a canonical row as plain text, a line per part."""
    tools = tools_of(dict(row))
    offered = [f"[tools] {', '.join(str(tool['function'].get('name')) for tool in tools)}"] if tools else []
    if "messages" in row:
        return "\n".join([*offered, *_turns(row["messages"])])
    if "chosen" in row:
        lines = [*offered, *_turns(row["prompt"])]
        for side in ("chosen", "rejected"):
            lines += _turns(row[side], mark=f"[{side}] ")
        return "\n".join(lines)
    if "label" in row:
        return "\n".join(
            [*offered, *_turns(row["prompt"]), *_turns(row["completion"], mark="[good] " if row["label"] else "[bad] ")]
        )
    if "choices" in row:
        marks = [
            f"{'*' if i == row['answer'] else ' '} {chr(65 + i % 26)}. {choice}"
            for i, choice in enumerate(row["choices"])
        ]
        return "\n".join([row["question"], *marks])
    if "answers" in row:
        return "\n".join([row["question"], *(f"= {answer}" for answer in row["answers"])])
    if "completion" in row:
        return f"prompt: {row['prompt']}\ncompletion: {row['completion']}"
    if RECORD in row:
        return "\n".join(f"{name}: {cell_text(value)}" for name, value in json.loads(row[RECORD]).items())
    return str(row.get("text", row.get("prompt", "")))


def _turns(messages: list[JsonObject], *, mark: str = "") -> list[str]:
    return [f"{mark}{message['role']}: {message_text(message)}" for message in messages]
