"""Stored conversations: trees of messages with one selected line. Every access checks the owner; another person's
conversation is reported as unknown. The playground's HTTP interface admits by signed tokens, checked against the
account at every request.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, delete, or_, select
from sqlalchemy.orm import Session

from backend.db.tables import Conversation, ConversationShare, Message
from backend.domain.attributes import view_of
from backend.domain.data.rows.tool_calls import ToolCall
from backend.domain.serving.chat import (
    AnswerToken,
    AnswerUsage,
    CalledTool,
    ChatSettings,
    TurnSettings,
    leaf_of_round,
    newest_leaf,
    next_round,
)
from backend.domain.serving.protocol import ChatMessage, Role
from backend.domain.validation import STORED
from backend.domain.wording import shorten
from backend.errors import InvalidInput, NotAllowed, NotFound
from backend.services.context import Context, Person
from backend.services.people.signatures import sign_for, unsign_for

TITLE_LENGTH = 60
RUNNING = ("running", "stopping")
MAX_MESSAGE = 200_000


@dataclass(frozen=True)
class ConversationView:
    """A conversation without its messages."""

    id: str
    title: str
    endpoint: str
    other_endpoint: str | None
    system_prompt: str
    sampling: TurnSettings
    leaf_id: str | None
    updated_at: datetime

    @property
    def settings(self) -> ChatSettings:
        """Return the settings of its next turn."""
        named = self.sampling.endpoints or tuple(filter(None, (self.endpoint, self.other_endpoint)))
        changes = {"system": self.system_prompt, "endpoints": named}
        return ChatSettings.model_validate(self.sampling.model_dump() | changes, context=STORED)


@dataclass(frozen=True)
class MessageView:
    """One message. `branch` is its column in a side-by-side turn, `round` its number among edits or answers."""

    id: str
    position: int
    branch: int
    role: str
    content: str
    endpoint: str | None
    checkpoint_id: str | None
    usage: AnswerUsage
    vote: str | None
    parent_id: str | None = None
    round: int = 0
    status: str = "done"
    tokens: list[AnswerToken] | None = None
    updated_at: datetime | None = None

    @property
    def is_running(self) -> bool:
        """Return whether the answer is being generated."""
        return self.status in RUNNING

    @property
    def was_stopped(self) -> bool:
        """Return whether a person stopped this answer."""
        return self.status == "stopped"

    @property
    def has_failed(self) -> bool:
        """Return whether this is an answer that failed before its first token."""
        return bool(self.usage.error) and not self.content

    @property
    def can_continue(self) -> bool:
        """Return whether this is an answer that ended before its end: by its length, a stop or a failure."""
        is_cut = self.status in ("stopped", "failed") or self.usage.finish_reason == "length"
        return is_cut and bool(self.content) and not self.is_running

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """Return the calls that this answer makes, in OpenAI's form; none where one of them was cut off."""
        calls = [_stored_call(call) for call in self.usage.tool_calls]
        return tuple(call for call in calls if call) if all(calls) else ()


def list_conversations(ctx: Context, *, person: Person, query: str = "") -> list[ConversationView]:
    """Return a person's conversations that hold at least one message, newest first; with `query`, those whose title or
    messages hold it.
    """
    with ctx.db.read() as session:
        has_message = select(Message.id).where(Message.conversation_id == Conversation.id)
        chosen = select(Conversation).where(owned_by(person), has_message.exists())
        if words := query.replace("\0", "").strip():  # PostgreSQL has no text with a NUL
            holds = has_message.where(Message.content.icontains(words, autoescape=True)).exists()
            chosen = chosen.where(or_(Conversation.title.icontains(words, autoescape=True), holds))
        return [
            conversation_view(row) for row in session.scalars(chosen.order_by(Conversation.updated_at.desc()).limit(50))
        ]


def get_conversation(ctx: Context, conversation_id: str, *, person: Person) -> ConversationView:
    """Return one conversation. Raises NotFound."""
    with ctx.db.read() as session:
        return conversation_view(own_conversation(session, conversation_id, person))


def list_messages(ctx: Context, conversation_id: str, *, person: Person) -> list[MessageView]:
    """Return the messages of a conversation in order, every branch included."""
    with ctx.db.read() as session:
        own_conversation(session, conversation_id, person)
        return read_messages(session, conversation_id)


def read_messages(session: Session, conversation_id: str) -> list[MessageView]:
    """Return the messages of a conversation in order; the caller has checked the owner."""
    order = (Message.position, Message.round, Message.branch)
    rows = session.scalars(select(Message).where(Message.conversation_id == conversation_id).order_by(*order))
    return [message_view(row) for row in rows]


def message_view(row: Message) -> MessageView:
    """Return a message as pages show it."""
    return view_of(MessageView, row)


def messages_before(messages: Sequence[MessageView], message_id: str) -> list[MessageView]:
    """Return the messages on the way from the first to one message, which is the last of them."""
    by_id = {message.id: message for message in messages}
    line: list[MessageView] = []
    at: str | None = message_id
    while at is not None and (message := by_id.get(at)) is not None and len(line) <= len(messages):
        line.append(message)
        at = message.parent_id
    return line[::-1]


def insert_message(
    session: Session,
    ctx: Context,
    conversation: Conversation,
    messages: Sequence[MessageView],
    *,
    parent_id: str | None,
    role: str,
    content: str,
    branch: int = 0,
) -> Message:
    """Insert a message below another as a new round; return its row. The first question names the conversation."""
    above = next((message for message in messages if message.id == parent_id), None)
    message = Message(
        conversation_id=conversation.id,
        parent_id=parent_id,
        position=0 if above is None else above.position + 1,
        round=next_round(messages, parent_id),
        branch=branch,
        role=role,
        content=content.replace("\x00", ""),
        created_at=ctx.now(),
        updated_at=ctx.now(),
    )
    session.add(message)
    conversation.updated_at = ctx.now()
    if role == "user" and not conversation.title:
        first_line = content.strip().splitlines()[0] if content.strip() else "Empty prompt"
        conversation.title = shorten(first_line, TITLE_LENGTH)
    session.flush()
    return message


def select_branch(
    ctx: Context, conversation_id: str, message_id: str, *, round_: int | None = None, person: Person
) -> None:
    """Select the line through a message, or through another round beside it. Raises NotFound."""
    with ctx.db.write() as session:
        conversation = own_conversation(session, conversation_id, person)
        messages = read_messages(session, conversation_id)
        message = next((message for message in messages if message.id == message_id), None)
        if message is None:
            raise NotFound("There is no such message in this conversation.", remedy="Reload the page.")
        if round_ is None:
            conversation.leaf_id = newest_leaf(messages, message.id)
            return
        leaf = leaf_of_round(messages, message_id, round_)
        if leaf is None:
            raise NotFound(f"There is no version {round_ + 1} of this message.", remedy="Reload the page.")
        conversation.leaf_id = leaf


def set_vote(ctx: Context, conversation_id: str, message_ids: Sequence[str], label: str, *, person: Person) -> None:
    """Store the verdict of a side-by-side turn in its answers."""
    with ctx.db.write() as session:
        own_conversation(session, conversation_id, person)
        rows = select(Message).where(Message.conversation_id == conversation_id, Message.id.in_(message_ids))
        for message in session.scalars(rows):
            message.vote = label


def rename_conversation(ctx: Context, conversation_id: str, title: str, *, person: Person) -> None:
    """Give one's own conversation another title. Raises InvalidInput for an empty one."""
    if not title.strip():
        raise InvalidInput("A conversation needs a title.", field="title")
    with ctx.db.write() as session:
        own_conversation(session, conversation_id, person).title = title.strip()[:160]


def delete_conversation(ctx: Context, conversation_id: str, *, person: Person) -> None:
    """Delete a conversation with its messages.

    Votes cast in it stay: each holds a copy of the turns that it judged, in the standing campaign "Playground".
    """
    with ctx.db.erase() as session:
        row = own_conversation(session, conversation_id, person)
        session.execute(delete(ConversationShare).where(ConversationShare.conversation_id == row.id))
        session.execute(delete(Message).where(Message.conversation_id == row.id))
        session.delete(row)


def system_of(conversation: ConversationView, answer: MessageView) -> str:
    """Return the system prompt of an answer: its own, where it had one beside others, or the conversation's."""
    changes = answer.usage.own.changes if answer.usage.own else {}
    return str(changes.get("system", conversation.system_prompt))


def without_failed(line: Sequence[MessageView]) -> list[MessageView]:
    """Return a line without the answers that failed before their first token, and without their questions."""
    failed = {message.position for message in line if message.has_failed}
    return [m for m in line if m.position not in failed and not (m.role == Role.USER and m.position + 1 in failed)]


def build_prompt(system: str, line: Sequence[MessageView]) -> tuple[ChatMessage, ...]:
    """Return the messages of the next request: the system prompt and a line of messages.

    A question whose answer failed before its first token is left out with that answer, unless it is the last message.
    """
    turns = tuple(
        ChatMessage(
            role=Role(message.role),
            content=message.content,
            tool_calls=message.tool_calls,
            tool_call_id=message.usage.tool_call_id,
            name=message.usage.tool,
        )
        for message in without_failed(line)
    )
    return ((ChatMessage(role=Role.SYSTEM, content=system),) if system.strip() else ()) + turns


def _stored_call(call: CalledTool) -> ToolCall | None:
    name, arguments = call["name"], call["arguments"] or "{}"
    try:
        is_complete = isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        is_complete = False
    if not name or not is_complete:
        return None
    return {
        "id": call["id"] or f"call_{name}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def owned_by(person: Person) -> ColumnElement[bool]:
    """Return the condition of a person's own conversations: without sign-in, those of no account."""
    return Conversation.user_id.is_(None) if person.id is None else Conversation.user_id == person.id


def own_conversation(session: Session, conversation_id: str, person: Person) -> Conversation:
    """Return the row of a person's own conversation. Raises NotFound for any other."""
    row = session.scalar(select(Conversation).where(Conversation.id == conversation_id, owned_by(person)))
    if row is None:
        raise NotFound(
            "There is no such conversation.",
            remedy="It may have been deleted; choose another above, or begin a new one.",
        )
    return row


def conversation_view(row: Conversation) -> ConversationView:
    """Return a conversation as pages show it."""
    return view_of(ConversationView, row, title=row.title or "New conversation")


PURPOSE = "playground"
TOKEN_AGE_S = 12 * 3600


def chat_token(ctx: Context, person: Person) -> str:
    """Return the signed statement that this person was admitted to the playground; it holds for twelve hours, and until
    the account is signed out everywhere.
    """
    return sign_for(ctx, person, {}, purpose=PURPOSE)


def person_of_token(ctx: Context, token: str) -> Person:
    """Return whom a token admits. Raises NotAllowed if it is forged or too old, or the account may not chat."""
    person, _ = unsign_for(ctx, token, purpose=PURPOSE, max_age_s=TOKEN_AGE_S)
    if not person.may_build:
        raise NotAllowed("You are not signed in any more.", remedy="Reload the page.")
    return person
