"""Render canonical rows as text: complete for measuring, or laid out for reading."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from backend.domain.data.rows.records import RECORD, texts_of
from backend.domain.data.rows.tool_calls import call_text, tools_of


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
        return "\n".join(f"{name}: {value}" for name, value in json.loads(row[RECORD]).items())
    return str(row.get("text", row.get("prompt", "")))


def _turns(messages: list[dict[str, Any]], *, mark: str = "") -> list[str]:
    return [f"{mark}{message['role']}: {message_text(message)}" for message in messages]
