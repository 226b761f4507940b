"""A conversation's selected line as JSON, as Markdown, and as a row of a dataset."""

from __future__ import annotations

import json
from typing import Literal

from backend.domain.attributes import attributes_of
from backend.domain.data.rows.tool_calls import call_text, tools_text
from backend.domain.json_values import JsonObject
from backend.domain.markdown_text import fenced
from backend.domain.serving.protocol import Role
from backend.services.context import Context, Person
from backend.services.serving.chat.reading import ChatView, read_chat
from backend.services.serving.conversations import MessageView, build_prompt, system_of

Format = Literal["json", "markdown", "row"]


def export_chat(ctx: Context, conversation_id: str, form: Format, *, person: Person) -> str:
    """Return one's own conversation as text. A row holds `messages`, as chat datasets do, without failed turns."""
    view = read_chat(ctx, conversation_id, person=person)
    if form == "json":
        return json.dumps(_document(view), ensure_ascii=False, indent=2)
    return _markdown(view) if form == "markdown" else _row(view)


def selected_messages(view: ChatView) -> list[MessageView]:
    """Return the selected message of each turn."""
    return [next(message for message in turn.messages if message.id == turn.selected) for turn in view.turns]


def _document(view: ChatView) -> dict[str, object]:
    return {
        "title": view.conversation.title,
        "settings": view.conversation.settings.model_dump(mode="json"),
        "turns": [[_message(message, view) for message in turn.messages] for turn in view.turns],
    }


def _message(message: MessageView, view: ChatView) -> JsonObject:
    return {
        **attributes_of(message, "role", "content", "endpoint", "checkpoint_id"),
        "usage": message.usage.model_dump(mode="json", exclude={"blind"}, exclude_unset=True),
        "vote": message.vote,
        "thumb": view.thumbs.get(message.id, 0),
    }


def _markdown(view: ChatView) -> str:
    parts = [f"# {view.conversation.title}"]
    if system := view.conversation.system_prompt.strip():
        parts.append(f"**System**\n\n{system}")
    for turn in view.turns:
        for at, message in enumerate(turn.messages):
            if turn.is_result:
                parts.append(f"**Result of {message.usage.tool or 'tool'}**\n\n{fenced(message.content)}")
                continue
            name = "You" if turn.is_question else message.endpoint or f"Answer {'ABCD'[at]}"
            calls = [fenced(call_text(call)) for call in message.tool_calls]
            parts.append("\n\n".join([f"**{name}**", *([message.content] if message.content else []), *calls]))
    return "\n\n".join(parts) + "\n"


def _row(view: ChatView) -> str:
    line, system = selected_messages(view), view.conversation.system_prompt
    if line and line[-1].role == Role.ASSISTANT:
        system = system_of(view.conversation, line[-1])
    messages, tools = build_prompt(system, line), tools_text(view.conversation.settings.tools)
    return (
        json.dumps(
            {"messages": [m.as_dict() for m in messages], **({"tools": tools} if tools else {})}, ensure_ascii=False
        )
        + "\n"
    )
