"""Tools for chat templates that have no place for them: written into the messages, in the format of Hermes and Qwen."""

from __future__ import annotations

import json
from collections.abc import Sequence

from backend.domain.data.rows.tool_calls import arguments_of
from backend.domain.json_values import JsonObject

Message = JsonObject


def write_tools(messages: Sequence[Message], tools: Sequence[dict[str, object]] | None) -> list[Message]:
    """Return messages with tools in the system message, calls in the assistant's text and results as the user's
    text.
    """
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
