"""A conversation's selected line as JSON, as Markdown, and as a row of a dataset."""

from __future__ import annotations

import json
from typing import Any, Literal

from backend.services.context import Context, Person
from backend.services.serving.chat.reading import ChatView, read_chat
from backend.services.serving.conversations import MessageView, build_prompt

Format = Literal["json", "markdown", "row"]


def export_chat(ctx: Context, conversation_id: str, form: Format, *, person: Person) -> str:
    """Return one's own conversation as text. A row holds `messages`, as instruction and chat datasets do, without failed turns."""
    view = read_chat(ctx, conversation_id, person=person)
    if form == "json":
        return json.dumps(_document(view), ensure_ascii=False, indent=2)
    return _markdown(view) if form == "markdown" else _row(view)


def selected_messages(view: ChatView) -> list[MessageView]:
    """Return the selected message of each turn."""
    return [next(message for message in turn.messages if message.id == turn.selected) for turn in view.turns]


def _document(view: ChatView) -> dict[str, Any]:
    return {
        "title": view.conversation.title,
        "settings": view.conversation.settings.model_dump(mode="json"),
        "turns": [[_message(message, view) for message in turn.messages] for turn in view.turns],
    }


def _message(message: MessageView, view: ChatView) -> dict[str, Any]:
    shown = {name: value for name, value in message.usage.items() if name != "blind"}
    return {
        "role": message.role,
        "content": message.content,
        "endpoint": message.endpoint,
        "checkpoint_id": message.checkpoint_id,
        "usage": shown,
        "vote": message.vote,
        "thumb": view.thumbs.get(message.id, 0),
    }


def _markdown(view: ChatView) -> str:
    parts = [f"# {view.conversation.title}"]
    if system := view.conversation.system_prompt.strip():
        parts.append(f"**System**\n\n{system}")
    for turn in view.turns:
        for at, message in enumerate(turn.messages):
            name = "You" if turn.is_question else message.endpoint or f"Answer {'ABCD'[at]}"
            parts.append(f"**{name}**\n\n{message.content}")
    return "\n\n".join(parts) + "\n"


def _row(view: ChatView) -> str:
    messages = build_prompt(view.conversation.system_prompt, selected_messages(view))
    return json.dumps({"messages": [{"role": m.role.value, "content": m.content} for m in messages]}, ensure_ascii=False) + "\n"
