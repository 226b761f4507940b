"""Tools in conversations: the available tools and the calls, in one form.

Stored form (OpenAI's, with arguments as JSON text so that a table's column can hold any of them)
    tools        '[{"type": "function", "function": {"name": ..., "description": ..., "parameters": {...}}}, ...]'
    tool_calls   [{"id": ..., "type": "function", "function": {"name": ..., "arguments": '{"city": "Graz"}'}}, ...]
    `id` may be missing
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from backend.domain.data.rows.problem import RowProblem, kind_of_value
from backend.domain.json_values import JsonObject

ToolCall = JsonObject
MAX_TOOLS = 512


def _parsed(value: Any, *, name: str, what: str) -> Any:
    """Return a value, parsed as JSON if it is text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise RowProblem(
            f"`{name}` is text that is not JSON ({value.strip()[:40]!r}), where {what} is expected"
        ) from None


def tools_text(value: Any) -> str:
    """Return a row's tools in the stored form; empty where there are none.

    Accepts a list, one tool, or either as JSON text; with or without OpenAI's `{"type": "function", ...}` around each.
    Raises RowProblem naming the tool at fault.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return ""
    value = _parsed(value, name="tools", what="a list of tools")
    tools = [value] if isinstance(value, dict) else value
    if not isinstance(tools, list):
        raise RowProblem(f"`tools` holds {kind_of_value(value)} where a list of tools is expected")
    if len(tools) > MAX_TOOLS:
        raise RowProblem(f"`tools` holds {len(tools):,} tools; at most {MAX_TOOLS} can be used")
    listed = []
    for place, tool in enumerate(tools, start=1):
        tool = _parsed(tool, name="tools", what="a tool")
        inner = tool.get("function") if isinstance(tool, dict) and isinstance(tool.get("function"), dict) else tool
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str) or not inner["name"].strip():
            raise RowProblem(f"tool {place} of `tools` has no name")
        listed.append({"type": "function", "function": inner})
    return json.dumps(listed, ensure_ascii=False) if listed else ""


def tools_of(row: Mapping[str, object]) -> list[JsonObject] | None:
    """Return the tools of a stored row as templates want them; None where there are none."""
    text = row.get("tools")
    return json.loads(text) if isinstance(text, str) and text else None


def tool_calls_of(value: Any, *, name: str, place: int) -> list[ToolCall]:
    """Return the calls of one turn in the stored form.

    Accepts OpenAI's list, a bare `{"name", "arguments"}` or a list of those, and either as JSON text. Arguments may be
    an object or text; text that is not JSON is kept, as some networks write it. Raises RowProblem naming the turn.
    """
    call_label = f"turn {place} of `{name}`"
    value = _parsed(value, name=f"{name}[{place}]", what="a call of a tool")
    calls = [value] if isinstance(value, dict) else value
    if not isinstance(calls, list) or not calls:
        raise RowProblem(f"{call_label} calls a tool, but holds {str(value)[:40]!r} where the call is expected")
    result = []
    parsed = [_parsed(call, name=f"{name}[{place}]", what="a call of a tool") for call in calls]
    for call in [one for part in parsed for one in (part if isinstance(part, list) else [part])]:
        inner = call.get("function") if isinstance(call, dict) and isinstance(call.get("function"), dict) else call
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str) or not inner["name"].strip():
            raise RowProblem(f"{call_label} calls a tool without a name")
        arguments = inner.get("arguments", inner.get("parameters"))
        text = (
            arguments
            if isinstance(arguments, str)
            else json.dumps({} if arguments is None else arguments, ensure_ascii=False)
        )
        call_id = call.get("id")
        result.append(
            {
                **({"id": call_id} if isinstance(call_id, str) and call_id else {}),
                "type": "function",
                "function": {"name": inner["name"], "arguments": text},
            }
        )
    return result


def arguments_of(call: ToolCall) -> Any:
    """Return a call's arguments as an object, which templates expect; the text itself if it is not a JSON object."""
    text = call["function"]["arguments"]
    if not isinstance(text, str):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text


def call_text(call: ToolCall) -> str:
    """Format a call: `search({"city": "Graz"})`."""
    function = call["function"]
    return f"{function['name']}({function['arguments']})"
