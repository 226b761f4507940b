"""A conversation as the playground shows it: its line, the answers side by side, and what a blind comparison hides;
and the same as JSON for the browser, texts and Markdown as nodes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Usage
from backend.domain.json_values import JsonObject
from backend.domain.markdown_nodes import Node, markdown_nodes
from backend.domain.serving.chat import AnswerUsage, own_words, selected_line
from backend.domain.serving.protocol import Role
from backend.services.context import Context, Person
from backend.services.serving.chat.contexts import ContextUse, context_of_endpoints, measure_line
from backend.services.serving.chat.judgements import SIDES, is_votable
from backend.services.serving.chat.turns import has_lost_answers, settle_lost_answers
from backend.services.serving.conversations import (
    ConversationView,
    MessageView,
    conversation_view,
    messages_before,
    own_conversation,
    read_messages,
    without_failed,
)
from backend.services.serving.feedback import thumbs_of
from backend.services.serving.prices import current_prices, request_costs
from backend.services.serving.replicas import STABLE
from backend.services.serving.request_log.browse import variant_name

BOOKED_S = 5
"""Seconds within which the gateway books a request."""
SHOWN_BLIND = {"finish_reason", "error", "error_code", "blind", "left_out", "tool_calls"}
"""Fields of usage that a blind comparison shows before the vote."""


@dataclass(frozen=True)
class TurnView:
    """One level of the selected line: a question, the result of a tool, or the answers of one round. `rounds` counts
    its versions, `version` is this one's.

    `is_hidden`: names and figures, and texts until all are complete, are not shown before the vote.
    """

    messages: tuple[MessageView, ...]
    selected: str
    version: int
    rounds: tuple[int, ...]
    is_hidden: bool
    is_votable: bool

    @property
    def is_question(self) -> bool:
        """Return whether this is a question."""
        return self.messages[0].role == Role.USER

    @property
    def is_result(self) -> bool:
        """Return whether this is what a tool returned."""
        return self.messages[0].role == Role.TOOL


@dataclass(frozen=True)
class ChatView:
    """A conversation's selected line. `context` is the shortest context of its endpoints, in tokens; `first_sent` the
    question that the newest answer's prompt began with, where older ones were left out. `is_booking`: the cost of an
    answer that is complete, or the tokens of one that was cut off, are not known yet.
    """

    conversation: ConversationView
    turns: tuple[TurnView, ...]
    thumbs: dict[str, int]
    use: ContextUse
    context: int | None
    first_sent: str | None
    is_booking: bool = False

    @property
    def is_running(self) -> bool:
        """Return whether an answer is on its way."""
        return any(message.is_running for turn in self.turns for message in turn.messages)


def read_chat(ctx: Context, conversation_id: str, *, leaf_id: str | None = None, person: Person) -> ChatView:
    """Return a person's conversation, with its selected line or the line to a leaf. Raises NotFound."""
    with ctx.db.read() as session:  # one for all: beside a first token every transaction counts
        conversation = conversation_view(own_conversation(session, conversation_id, person))
        messages = read_messages(session, conversation_id)
        if not has_lost_answers(ctx, messages):
            return view_chat(session, ctx, conversation, messages, leaf_id=leaf_id or conversation.leaf_id)
    settle_lost_answers(ctx, conversation_id)
    return read_chat(ctx, conversation_id, leaf_id=leaf_id, person=person)


def read_running(ctx: Context, conversation_id: str, *, person: Person) -> list[tuple[str, bool]]:
    """Return the answers of one's own conversation on their way, each with whether it is hidden before a vote."""
    with ctx.db.read() as session:
        own_conversation(session, conversation_id, person)
        messages = read_messages(session, conversation_id)
    return [(message.id, message.usage.blind) for message in messages if message.is_running]


def view_chat(
    session: Session, ctx: Context, conversation: ConversationView, messages: list[MessageView], *, leaf_id: str | None
) -> ChatView:
    """Return what the playground shows of messages; the caller has checked who may read them."""
    messages, unbooked = _with_bookings(session, ctx, messages)
    fresh = ctx.now() - timedelta(seconds=BOOKED_S)
    priced = current_prices(ctx, session).are_set if unbooked else False
    is_booking = any(
        one.updated_at is not None and one.updated_at > fresh and (priced or one.usage.prompt_tokens is None)
        for one in unbooked
    )
    by_id = {message.id: message for message in messages}
    steps = selected_line(messages, leaf_id)
    turns = []
    for step in steps:
        columns = tuple(by_id[message_id] for message_id in step.messages)
        if by_id[step.selected].role != Role.ASSISTANT:
            columns = (by_id[step.selected],)
        turns.append(_turn(columns, selected=step.selected, version=step.rounds.index(step.round), rounds=step.rounds))
    line = messages_before(messages, steps[-1].selected) if steps else []
    settings = conversation.settings
    facts = context_of_endpoints(session, ctx, settings.endpoints)
    use = measure_line(line, system=settings.fixed_text, messages=messages)
    return ChatView(
        conversation=conversation,
        turns=tuple(turns),
        thumbs=thumbs_of(session, [message.id for message in messages if message.role == Role.ASSISTANT]),
        use=use,
        context=min((fact.context for fact in facts.values() if fact.context), default=None),
        first_sent=_first_sent(line, use.left_out),
        is_booking=is_booking,
    )


def _with_bookings(
    session: Session, ctx: Context, messages: list[MessageView]
) -> tuple[list[MessageView], list[MessageView]]:
    """Return the messages with the cost and the canary of their requests, those that were cut off with their tokens,
    and those that the gateway has not booked yet. There is no cost where no price of a device is set.
    """
    ids = {message.usage.request_id for message in messages if message.usage.request_id}
    if not ids:
        return messages, []
    costs = request_costs(session, ctx, list(ids))
    columns = (Usage.id, Usage.variant, Usage.prompt_tokens, Usage.completion_tokens)
    booked = {
        request_id: {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            **({"cost_usd": costs[request_id]} if request_id in costs else {}),
            **({} if variant in ("", STABLE) else {"canary": variant_name(session, variant)}),
        }
        for request_id, variant, prompt, completion in session.execute(select(*columns).where(Usage.id.in_(ids)))
    }
    unbooked = [m for m in messages if m.usage.request_id and not m.is_running and m.usage.request_id not in booked]
    shown = [
        replace(m, usage=m.usage.model_copy(update=facts)) if (facts := booked.get(m.usage.request_id or "")) else m
        for m in messages
    ]
    return shown, unbooked


def _turn(columns: tuple[MessageView, ...], *, selected: str, version: int, rounds: tuple[int, ...]) -> TurnView:
    is_waiting = any(message.is_running for message in columns)
    is_cut = any(message.was_stopped and not message.vote for message in columns)
    is_open = is_waiting or is_cut or is_votable(columns)
    is_blind = is_open and any(message.usage.blind for message in columns)
    shown = columns
    if is_blind:
        shown = tuple(_hide(message, is_waiting=is_waiting) for message in columns)
    return TurnView(shown, selected, version, rounds, is_blind, is_votable(columns))


def _hide(message: MessageView, *, is_waiting: bool) -> MessageView:
    """Return an answer without what tells its endpoint. While another is written, none is shown: speed tells."""
    hidden = replace(message, endpoint=None, checkpoint_id=None, usage=AnswerUsage(), tokens=None)
    if is_waiting:
        return replace(hidden, content="", status="running")
    return replace(hidden, usage=AnswerUsage(**message.usage.model_dump(include=SHOWN_BLIND, exclude_unset=True)))


def _first_sent(line: list[MessageView], left_out: int) -> str | None:
    questions = [message.id for message in without_failed(line) if message.role == Role.USER]
    return questions[left_out] if 0 < left_out < len(questions) else None


Document = JsonObject
HIDDEN_USAGE = {"blind", "own", "request_id", "tool", "tool_call_id"}


def chat_document(view: ChatView) -> Document:
    """Return a conversation's selected line."""
    return {
        "id": view.conversation.id,
        "title": view.conversation.title,
        "running": view.is_running,
        "booking": view.is_booking,
        "turns": [_turn_document(turn, view) for turn in view.turns],
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


def _turn_document(turn: TurnView, view: ChatView) -> Document:
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
