"""A conversation as JSON for the playground's browser: texts, Markdown as nodes, nothing that is to stay blind."""

from __future__ import annotations

from backend.domain.json_values import JsonObject
from backend.domain.markdown_nodes import Node, markdown_nodes
from backend.domain.serving.chat import own_words
from backend.services.serving.chat.judgements import SIDES
from backend.services.serving.chat.reading import ChatView, TurnView
from backend.services.serving.conversations import MessageView

Document = JsonObject
HIDDEN_USAGE = {"blind", "own", "request_id", "tool", "tool_call_id"}


def chat_document(view: ChatView) -> Document:
    """Return a conversation's selected line."""
    return {
        "id": view.conversation.id,
        "title": view.conversation.title,
        "running": view.is_running,
        "booking": view.is_booking,
        "turns": [_turn(turn, view) for turn in view.turns],
        "context": {
            "tokens": view.use.tokens,
            "exact": view.use.is_exact,
            "limit": view.context,
            "ratio": round(view.use.characters_per_token, 2),
            "left_out": view.use.left_out,
            "first_sent": view.first_sent,
        },
    }


def answer_document(message: MessageView, *, thumb: int = 0, side: str | None = None) -> Document:
    """Return one answer."""
    return {
        "id": message.id,
        "text": message.content,
        "nodes": markdown_nodes(message.content),
        "status": "running" if message.is_running else message.status,
        "endpoint": message.endpoint,
        "usage": message.usage.model_dump(mode="json", exclude=HIDDEN_USAGE, exclude_unset=True, exclude_none=True),
        "own": own_words(message.usage.own),
        "thumb": thumb,
        "tokens": message.tokens,
        "calls": [call["function"]["name"] for call in message.tool_calls],
        "can_continue": message.can_continue,
        "side": side,
    }


def changed_nodes(before: list[Node], after: list[Node]) -> tuple[int, list[Node]]:
    """Return how many of the first blocks are unchanged, and the blocks after them."""
    same = next(
        (at for at, (old, new) in enumerate(zip(before, after, strict=False)) if old != new),
        min(len(before), len(after)),
    )
    return same, after[same:]


def _turn(turn: TurnView, view: ChatView) -> Document:
    versions = {"version": turn.version + 1, "versions": len(turn.rounds), "rounds": list(turn.rounds)}
    if turn.is_question:
        (message,) = turn.messages
        return {"kind": "question", "id": message.id, "text": message.content, **versions}
    if turn.is_result:
        (message,) = turn.messages
        return {
            "kind": "result",
            "id": message.id,
            "text": message.content,
            "tool": message.usage.tool or "tool",
            **versions,
        }
    many = len(turn.messages) > 1
    answers = [
        answer_document(message, thumb=view.thumbs.get(message.id, 0), side=SIDES[at] if many else None)
        for at, message in enumerate(turn.messages)
    ]
    vote = next((message.vote for message in turn.messages if message.vote), None)
    return {
        "kind": "answers",
        "id": turn.messages[0].id,
        "answers": answers,
        "selected": turn.selected,
        "hidden": turn.is_hidden,
        "votable": turn.is_votable,
        "vote": vote,
        **versions,
    }
