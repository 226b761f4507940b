"""Read-only links to a conversation. A link shows it up to the message that was its last, to accounts that may open the
playground.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from backend.db.tables import Conversation, ConversationShare, User
from backend.domain.serving.chat import selected_line
from backend.errors import InvalidInput, NotFound
from backend.services.context import Context, Person, require_builder
from backend.services.serving.chat.reading import ChatView, view_chat
from backend.services.serving.conversations import conversation_view, own_conversation, read_messages

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
