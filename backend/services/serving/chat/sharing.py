"""Read-only links to a conversation, and files of its selected line: JSON, Markdown, a row of a dataset. A link shows
it up to the message that was its last, to accounts that may open the playground.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import select

from backend.db.tables import Conversation, ConversationShare, User
from backend.domain.attributes import attributes_of
from backend.domain.data.rows.tool_calls import call_text, tools_text
from backend.domain.json_values import JsonObject
from backend.domain.markdown_text import fenced
from backend.domain.serving.chat import selected_line
from backend.domain.serving.protocol import Role
from backend.errors import InvalidInput, NotFound
from backend.services.context import Context, Person, require_builder
from backend.services.serving.chat.reading import ChatView, read_chat, view_chat
from backend.services.serving.conversations import (
    MessageView,
    build_prompt,
    conversation_view,
    own_conversation,
    read_messages,
    system_of,
)

DIGITS = 40
GONE = "This link does not lead to a conversation."
REMEDY = "It may have been revoked, or the conversation deleted; ask its owner for another."


@dataclass(frozen=True)
class ShareView:
    """A link of a conversation."""

    id: str
    url: str
    created_at: datetime


def share_conversation(ctx: Context, conversation_id: str, *, person: Person) -> ShareView:
    """Make a link to one's own conversation as it is now. Raises InvalidInput for one without an answer."""
    require_builder(person)
    with ctx.db.write() as session:
        conversation = own_conversation(session, conversation_id, person)
        messages = read_messages(session, conversation_id)
        line = selected_line(messages, conversation.leaf_id)
        if not line:
            raise InvalidInput("The conversation has no message to share.", remedy="Write one first.")
        row = ConversationShare(
            conversation_id=conversation_id, leaf_id=line[-1].selected, created_by=person.id, created_at=ctx.now()
        )
        session.add(row)
        session.flush()
        return _view(ctx, row)


def list_shares(ctx: Context, conversation_id: str, *, person: Person) -> list[ShareView]:
    """Return the valid links of one's own conversation, oldest first."""
    query = select(ConversationShare).where(
        ConversationShare.conversation_id == conversation_id, ConversationShare.revoked_at.is_(None)
    )
    with ctx.db.read() as session:
        own_conversation(session, conversation_id, person)
        return [_view(ctx, row) for row in session.scalars(query.order_by(ConversationShare.created_at))]


def revoke_share(ctx: Context, share_id: str, *, person: Person) -> None:
    """Revoke a link of one's own conversation, at once. Raises NotFound for any other."""
    with ctx.db.write() as session:
        row = session.get(ConversationShare, share_id)
        if row is None:
            raise NotFound("There is no such link.")
        own_conversation(session, row.conversation_id, person)
        row.revoked_at = row.revoked_at or ctx.now()


def read_shared(ctx: Context, token: str) -> ChatView:
    """Return the conversation of a link. Raises NotFound for a forged or revoked link, or a disabled owner."""
    share_id, _, digits = token.partition(".")
    if not hmac.compare_digest(digits.encode(), _sign(ctx, share_id).encode()):
        raise NotFound(GONE, remedy=REMEDY)
    with ctx.db.read() as session:
        row = session.get(ConversationShare, share_id)
        conversation = (
            session.get(Conversation, row.conversation_id) if row is not None and row.revoked_at is None else None
        )
        owner = session.get(User, conversation.user_id) if conversation is not None and conversation.user_id else None
        if row is None or conversation is None or (owner is not None and owner.disabled_at is not None):
            raise NotFound(GONE, remedy=REMEDY)
        messages = read_messages(session, conversation.id)
        return view_chat(session, ctx, conversation_view(conversation), messages, leaf_id=row.leaf_id)


def _view(ctx: Context, row: ConversationShare) -> ShareView:
    url = f"{ctx.pages_url.rstrip('/')}/playground?shared={row.id}.{_sign(ctx, row.id)}"
    return ShareView(row.id, url, row.created_at)


def _sign(ctx: Context, share_id: str) -> str:
    return hmac.new(ctx.secret, f"conversation share:{share_id}".encode(), hashlib.sha256).hexdigest()[:DIGITS]


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
