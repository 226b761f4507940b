"""Conversations as the playground stores them, written without an endpoint that answers."""

from __future__ import annotations

from typing import Any

from backend.db.tables import Conversation
from backend.domain.serving.chat import selected_line
from backend.services.context import Context, Person
from backend.services.serving.conversations import (
    ConversationView,
    conversation_view,
    insert_message,
    own_conversation,
    read_messages,
)


def start_conversation(
    ctx: Context, *, endpoint: str, other_endpoint: str | None = None, person: Person, **values: Any
) -> ConversationView:
    """Store an empty conversation."""
    times = {"created_at": ctx.now(), "updated_at": ctx.now()}
    with ctx.db.write() as session:
        row = Conversation(user_id=person.id, endpoint=endpoint, **times, **values)
        session.add(row)
        session.flush()
        return conversation_view(row)


def add_message(
    ctx: Context, conversation_id: str, *, role: str, content: str, branch: int = 0, person: Person, **values: Any
) -> str:
    """Append a message to the selected line and return its id. A `branch` above 0 stands beside the last message."""
    with ctx.db.write() as session:
        conversation = own_conversation(session, conversation_id, person)
        messages = read_messages(session, conversation_id)
        above = selected_line(messages, conversation.leaf_id)[: -1 if branch else None]
        parent = above[-1].selected if above else None
        row = insert_message(
            session, ctx, conversation, messages, parent_id=parent, role=role, content=content, branch=branch
        )
        row.round = 0
        for name, value in values.items():
            setattr(row, name, value)
        if not branch:
            conversation.leaf_id = row.id
        return row.id
