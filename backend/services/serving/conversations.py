"""Stored conversations. Every access checks the owner; another person's conversation is reported as unknown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from backend.db.tables import Conversation, Message
from backend.domain.serving.protocol import ChatMessage, Role
from backend.errors import InvalidInput, NotFound
from backend.services.context import Context, Person, require_builder

TITLE_LENGTH = 60


@dataclass(frozen=True)
class ConversationView:
    """A conversation without its messages."""

    id: str
    title: str
    endpoint: str
    other_endpoint: str | None
    system_prompt: str
    sampling: dict[str, Any]
    updated_at: datetime


@dataclass(frozen=True)
class MessageView:
    """One message. `branch` 1 is the right answer of a side-by-side turn."""

    id: str
    position: int
    branch: int
    role: str
    content: str
    endpoint: str | None
    checkpoint_id: str | None
    usage: dict[str, Any]
    vote: str | None

    @property
    def has_failed(self) -> bool:
        """Return whether this is an answer that failed before its first token."""
        return bool(self.usage.get("error")) and not self.content


def start_conversation(
    ctx: Context,
    *,
    endpoint: str,
    other_endpoint: str | None = None,
    system_prompt: str = "",
    sampling: dict[str, Any] | None = None,
    person: Person,
) -> ConversationView:
    """Create an empty conversation. Raises NotAllowed for a rater."""
    require_builder(person)
    with ctx.db.write() as session:
        row = Conversation(
            user_id=person.id,
            endpoint=endpoint,
            other_endpoint=other_endpoint,
            system_prompt=system_prompt,
            sampling=sampling or {},
            created_at=ctx.now(),
            updated_at=ctx.now(),
        )
        session.add(row)
        session.flush()
        return _view(row)


def list_conversations(ctx: Context, *, person: Person, limit: int = 50) -> list[ConversationView]:
    """Return a person's conversations that hold at least one message, newest first."""
    with ctx.db.read() as session:
        has_message = select(Message.id).where(Message.conversation_id == Conversation.id).exists()
        rows = session.scalars(
            select(Conversation).where(_owned(person), has_message).order_by(Conversation.updated_at.desc()).limit(limit)
        )
        return [_view(row) for row in rows]


def get_conversation(ctx: Context, conversation_id: str, *, person: Person) -> ConversationView:
    """Return one conversation. Raises NotFound."""
    with ctx.db.read() as session:
        return _view(_own(session, conversation_id, person))


def list_messages(ctx: Context, conversation_id: str, *, person: Person) -> list[MessageView]:
    """Return the messages of a conversation in order."""
    with ctx.db.read() as session:
        _own(session, conversation_id, person)
        rows = session.scalars(select(Message).where(Message.conversation_id == conversation_id).order_by(Message.position, Message.branch))
        return [
            MessageView(m.id, m.position, m.branch, m.role, m.content, m.endpoint, m.checkpoint_id, dict(m.usage or {}), m.vote)
            for m in rows
        ]


def add_message(
    ctx: Context,
    conversation_id: str,
    *,
    role: str,
    content: str,
    branch: int = 0,
    endpoint: str | None = None,
    checkpoint_id: str | None = None,
    usage: dict[str, Any] | None = None,
    person: Person,
) -> str:
    """Append a message and return its id. Branch 1 shares the position of branch 0."""
    with ctx.db.write() as session:
        conversation = _own(session, conversation_id, person)
        last = session.scalar(select(func.max(Message.position)).where(Message.conversation_id == conversation_id))
        position = -1 if last is None else last
        message = Message(
            conversation_id=conversation_id,
            position=position if branch else position + 1,
            branch=branch,
            role=role,
            content=content,
            endpoint=endpoint,
            checkpoint_id=checkpoint_id,
            usage=usage or {},
            created_at=ctx.now(),
        )
        session.add(message)
        conversation.updated_at = ctx.now()
        if role == "user" and not conversation.title:
            first_line = content.strip().splitlines()[0] if content.strip() else "Empty prompt"
            conversation.title = first_line if len(first_line) <= TITLE_LENGTH else first_line[: TITLE_LENGTH - 1] + "…"
        session.flush()
        return message.id


def set_vote(ctx: Context, conversation_id: str, position: int, label: str, *, person: Person) -> None:
    """Store the verdict of a side-by-side turn."""
    with ctx.db.write() as session:
        _own(session, conversation_id, person)
        for message in session.scalars(select(Message).where(Message.conversation_id == conversation_id, Message.position == position)):
            message.vote = label


def change_conversation(
    ctx: Context,
    conversation_id: str,
    *,
    title: str | None = None,
    system_prompt: str | None = None,
    sampling: dict[str, Any] | None = None,
    endpoint: str | None = None,
    other_endpoint: str | None = None,
    person: Person,
) -> None:
    """Rename a conversation or change the settings of its next turn. None leaves a value unchanged."""
    if title is not None and not title.strip():
        raise InvalidInput("A conversation needs a title.", field="title")
    with ctx.db.write() as session:
        row = _own(session, conversation_id, person)
        row.title = title.strip()[:160] if title is not None else row.title
        row.system_prompt = system_prompt if system_prompt is not None else row.system_prompt
        row.sampling = sampling if sampling is not None else row.sampling
        row.endpoint = endpoint if endpoint is not None else row.endpoint
        row.other_endpoint = (other_endpoint or None) if other_endpoint is not None else row.other_endpoint


def delete_conversation(ctx: Context, conversation_id: str, *, person: Person) -> None:
    """Delete a conversation with its messages.

    Votes cast in it stay: each holds a copy of the turns that it judged, in the standing campaign "Playground".
    """
    with ctx.db.erase() as session:
        row = _own(session, conversation_id, person)
        session.execute(delete(Message).where(Message.conversation_id == row.id))
        session.delete(row)


def drop_last_turn(ctx: Context, conversation_id: str, *, person: Person) -> str:
    """Delete the last message of the person and its answers; return the message. Raises NotFound without one."""
    with ctx.db.write() as session:
        _own(session, conversation_id, person)
        question = session.scalars(
            select(Message)
            .where(Message.conversation_id == conversation_id, Message.role == Role.USER)
            .order_by(Message.position.desc())
            .limit(1)
        ).first()
        if question is None:
            raise NotFound("The conversation has no message.")
        content = question.content
        session.execute(delete(Message).where(Message.conversation_id == conversation_id, Message.position >= question.position))
        return content


def build_prompt(system: str, messages: Sequence[MessageView]) -> tuple[ChatMessage, ...]:
    """Return the messages of the next request: the system prompt and the main line, which holds the left answers of side-by-side turns.

    A question whose answer failed before its first token is left out with that answer, unless it is the last message.
    """
    line = [message for message in messages if message.branch == 0]
    failed = {message.position for message in line if message.has_failed}
    included = [m for m in line if m.position not in failed and not (m.role == Role.USER and m.position + 1 in failed)]
    turns = tuple(ChatMessage(role=Role(m.role), content=m.content) for m in included)
    return ((ChatMessage(role=Role.SYSTEM, content=system),) if system.strip() else ()) + turns


def _owned(person: Person) -> Any:
    return Conversation.user_id.is_(None) if person.id is None else Conversation.user_id == person.id


def _own(session: Session, conversation_id: str, person: Person) -> Conversation:
    row = session.scalar(select(Conversation).where(Conversation.id == conversation_id, _owned(person)))
    if row is None:
        raise NotFound("There is no such conversation.", remedy="It may have been deleted; choose another on the left.")
    return row


def _view(row: Conversation) -> ConversationView:
    return ConversationView(
        id=row.id,
        title=row.title or "New conversation",
        endpoint=row.endpoint,
        other_endpoint=row.other_endpoint,
        system_prompt=row.system_prompt,
        sampling=dict(row.sampling or {}),
        updated_at=row.updated_at,
    )
