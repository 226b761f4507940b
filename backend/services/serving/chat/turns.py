"""Turns of the playground: send a message or a tool's result, edit it, regenerate, continue or stop an answer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Conversation, Message
from backend.domain.serving.chat import AnswerToken, AnswerUsage, ChatSettings, SideSettings, selected_line
from backend.domain.serving.protocol import ChatMessage, Role
from backend.errors import Conflict, InvalidInput, NotFound
from backend.services.context import Context, Person, require_builder
from backend.services.serving.chat.contexts import context_of_endpoints, measure_line, turns_to_leave_out
from backend.services.serving.chat.generation import ANSWERS, INTERRUPTED, LOST_AFTER_S, Request, generate
from backend.services.serving.chat.judgements import answers_beside
from backend.services.serving.conversations import (
    MAX_MESSAGE,
    RUNNING,
    MessageView,
    build_prompt,
    insert_message,
    message_view,
    messages_before,
    own_conversation,
    read_messages,
)


def send_message(
    ctx: Context,
    conversation_id: str | None,
    text: str,
    *,
    settings: ChatSettings,
    edited: str | None = None,
    after: str | None = None,
    person: Person,
) -> str:
    """Store a question below the selected line and begin its answers; return the conversation's id, a new one for None.

    `edited` is a question that this one replaces in a new branch, `after` the last question that its sender has seen.
    Raises InvalidInput for an empty question or while an answer is on its way, NotFound for another person's
    conversation, Conflict if the conversation went on in another window.
    """
    require_builder(person)
    if not text.strip():
        raise InvalidInput("The message is empty.", remedy="Write something to send.", field="text")
    if len(text) > MAX_MESSAGE:
        raise InvalidInput(
            f"The message has {len(text):,} characters.", remedy=f"Send at most {MAX_MESSAGE:,}.", field="text"
        )
    with ctx.db.write() as session:
        conversation = (
            _start(session, ctx, person)
            if conversation_id is None
            else own_conversation(session, conversation_id, person)
        )
        messages = _settled_messages(session, conversation.id)
        _store_settings(conversation, settings)
        if edited is not None:
            parent = _message(messages, edited, role="user").parent_id
        else:
            line = [level.selected for level in selected_line(messages, conversation.leaf_id)]
            if after not in (None, *[one.id for one in messages if one.id in line and one.role == "user"][-1:]):
                raise Conflict(
                    "This conversation went on in another window.", remedy="Read what came, then send your message."
                )
            parent = line[-1] if line else None
        question = message_view(
            insert_message(session, ctx, conversation, messages, parent_id=parent, role="user", content=text)
        )
        requests = _insert_answers(session, ctx, conversation, [*messages, question], question, settings=settings)
        conversation_id = conversation.id
    _begin(ctx, requests)
    return conversation_id


def regenerate(ctx: Context, conversation_id: str, message_id: str, *, settings: ChatSettings, person: Person) -> None:
    """Begin another answer in place of one, in a new branch. Answers beside it are copied, each column stays where it
    is, and the one that was selected stays so. Raises InvalidInput and NotFound as `send_message` does.
    """
    require_builder(person)
    with ctx.db.write() as session:
        conversation, messages = _open(session, conversation_id, person)
        answer = _message(messages, message_id, role="assistant")
        question = _message(messages, answer.parent_id or "", role=None)
        columns = answers_beside(messages, message_id)
        _store_settings(conversation, settings)
        if len(columns) == 1:
            requests = _insert_answers(session, ctx, conversation, messages, question, settings=settings)
        else:
            on_line = {level.selected for level in selected_line(messages, conversation.leaf_id)}
            same, order = _settings_of(columns, settings), list(range(len(columns)))
            begun = _insert_answers(session, ctx, conversation, messages, question, settings=same, order=order)
            requests = []
            for column, request in zip(columns, begun, strict=True):
                if column.id in on_line:
                    conversation.leaf_id = request.message_id
                if column.id == answer.id:
                    requests.append(request)
                else:
                    _copy_answer(session.get_one(Message, request.message_id), column)
    _begin(ctx, requests)


def _settings_of(columns: Sequence[MessageView], settings: ChatSettings) -> ChatSettings:
    """Return settings with the endpoints, and what each has of its own, of answers beside each other."""
    return settings.model_copy(
        update={
            "blind": any(column.usage.blind and not column.vote for column in columns),
            "endpoints": tuple(column.endpoint or settings.endpoints[0] for column in columns),
            "sides": tuple(column.usage.own or SideSettings() for column in columns),
        }
    )


def send_results(
    ctx: Context,
    conversation_id: str,
    message_id: str,
    results: Sequence[str],
    *,
    settings: ChatSettings,
    person: Person,
) -> None:
    """Store the results of the tools that an answer calls, one for each call, and begin the answers to them, in a new
    branch.

    Raises InvalidInput for an answer without complete calls or another number of results, else as `send_message` does.
    """
    require_builder(person)
    if (longest := max(map(len, results), default=0)) > MAX_MESSAGE:
        raise InvalidInput(
            f"A result has {longest:,} characters.", remedy=f"Send at most {MAX_MESSAGE:,}.", field="results"
        )
    with ctx.db.write() as session:
        conversation, messages = _open(session, conversation_id, person)
        _store_settings(conversation, settings)
        last = _message(messages, message_id, role="assistant")
        calls = last.tool_calls
        if not calls or len(results) != len(calls):
            problem = f"The answer calls {len(calls)} tools, and {len(results)} results were sent."
            raise InvalidInput(problem, remedy="Send one result for each call.", field="results")
        for call, text in zip(calls, results, strict=True):
            row = insert_message(session, ctx, conversation, messages, parent_id=last.id, role="tool", content=text)
            row.usage = AnswerUsage(tool_call_id=call["id"], tool=call["function"]["name"])
            last = message_view(row)
            messages.append(last)
        requests = _insert_answers(session, ctx, conversation, messages, last, settings=settings)
    _begin(ctx, requests)


def continue_answer(
    ctx: Context,
    conversation_id: str,
    message_id: str,
    *,
    settings: ChatSettings,
    token: int | None = None,
    instead: str = "",
    together: bool = False,
    person: Person,
) -> None:
    """Begin an answer that continues another one in a new branch: from its end, or with `token` from before that token
    with the text `instead`. Answers beside it are copied, or, with `together`, continued where they ended before their
    end. Raises InvalidInput and NotFound as `send_message` does.
    """
    require_builder(person)
    with ctx.db.write() as session:
        conversation, messages = _open(session, conversation_id, person)
        answer = _message(messages, message_id, role="assistant")
        question = _message(messages, answer.parent_id or "", role=None)
        columns = answers_beside(messages, message_id)
        continued = [column for column in columns if column.can_continue] if together else [answer]
        if not continued:
            raise InvalidInput("Every answer is complete.", remedy="Use Regenerate.")
        same, order = _settings_of(columns, settings), list(range(len(columns)))
        requests = _insert_answers(session, ctx, conversation, messages, question, settings=same, order=order)
        begun = []
        for column, request in zip(columns, requests, strict=True):
            if column.id == answer.id:
                conversation.leaf_id = request.message_id
            if column in continued:
                begun.append(_continued(request, column, token=token, instead=instead))
            else:
                _copy_answer(session.get_one(Message, request.message_id), column)
    _begin(ctx, begun)


def _continued(request: Request, answer: MessageView, *, token: int | None, instead: str) -> Request:
    prefix, tokens = answer.content, list(answer.tokens or [])
    if token is not None:
        prefix, tokens = _prefix_before(answer, token, instead)
    if not prefix:
        raise InvalidInput("There is no text to continue from.", remedy="Use Regenerate.")
    messages = (*request.messages, ChatMessage(role=Role.ASSISTANT, content=prefix))
    return replace(request, messages=messages, prefix=prefix, prefix_tokens=tuple(tokens))


def _copy_answer(row: Message, answer: MessageView) -> None:
    row.content, row.status, row.tokens, row.checkpoint_id = (
        answer.content,
        answer.status,
        answer.tokens,
        answer.checkpoint_id,
    )
    row.usage = answer.usage.model_copy(update={"blind": row.usage.blind})


def stop_answers(ctx: Context, conversation_id: str, *, person: Person) -> None:
    """Stop every answer of a conversation that is on its way, in whichever process. What arrived stays."""
    with ctx.db.write() as session:
        own_conversation(session, conversation_id, person)
        rows = session.scalars(
            select(Message).where(Message.conversation_id == conversation_id, Message.status == "running")
        )
        ids = [row.id for row in rows]
        for row in session.scalars(select(Message).where(Message.id.in_(ids))):
            row.status = "stopping"
    for message_id in ids:
        ANSWERS.stop(message_id)


def has_lost_answers(ctx: Context, messages: Sequence[MessageView]) -> bool:
    """Return whether answers seem to be on their way that no process has written to for a while."""
    return any(message.is_running and _is_lost(ctx, message.id, message.updated_at) for message in messages)


def settle_lost_answers(ctx: Context, conversation_id: str) -> None:
    """Mark the answers as interrupted whose process is gone."""
    with ctx.db.write() as session:
        for row in session.scalars(
            select(Message).where(Message.conversation_id == conversation_id, Message.status.in_(RUNNING))
        ):
            if not _is_lost(ctx, row.id, row.updated_at):
                continue
            row.status = "failed"
            row.usage = row.usage.model_copy(update={"error": INTERRUPTED, "error_code": "interrupted"})


def _is_lost(ctx: Context, message_id: str, updated_at: datetime | None) -> bool:
    before = ctx.now() - timedelta(seconds=LOST_AFTER_S)
    return ANSWERS.get(message_id) is None and (updated_at is None or updated_at < before)


def _insert_answers(
    session: Session,
    ctx: Context,
    conversation: Conversation,
    messages: Sequence[MessageView],
    question: MessageView,
    *,
    settings: ChatSettings,
    order: Sequence[int] | None = None,
) -> list[Request]:
    """Insert an answer a column and select that of the endpoint that the line came from, the first one where it is
    hidden or new; return what to generate. The endpoints of the settings come in `order`; by default in that of the
    answers before where names are shown, else in random order, or, where their settings differ, in that of the form.
    """
    line = messages_before(messages, question.id)
    facts = context_of_endpoints(session, ctx, settings.endpoints)
    contexts = [fact.context for fact in facts.values() if fact.context]
    ratio = measure_line(line[:-1], system=settings.fixed_text, messages=messages).characters_per_token
    shortest = min(contexts, default=None)
    columns = range(len(settings.endpoints))
    if order is None and not settings.blind:
        order = _order_before(messages, line, settings.endpoints)
    order = order or (columns if settings.differ else random.sample(columns, k=len(columns)))
    before = next((message.endpoint for message in reversed(line) if message.role == "assistant"), None)
    names = [settings.endpoints[column] for column in order]
    selected = names.index(before) if before in names and not settings.blind else 0
    requests: list[Request] = []
    for branch, (endpoint, side, own) in enumerate(
        (settings.endpoints[column], settings.of_side(column), settings.own(column)) for column in order
    ):
        prompt = build_prompt(side.system, line)
        left_out = turns_to_leave_out(
            prompt, context=shortest, max_tokens=side.max_tokens, ratio=ratio, tools=side.tools
        )
        row = insert_message(
            session, ctx, conversation, messages, parent_id=question.id, role="assistant", content="", branch=branch
        )
        row.status, row.endpoint, row.checkpoint_id = (
            "running",
            endpoint,
            facts[endpoint].checkpoint_id if endpoint in facts else None,
        )
        if own.changes:
            row.usage = AnswerUsage(own=own)
        elif settings.blind and len(order) > 1 and not settings.differ:
            row.usage = AnswerUsage(blind=True)
        if branch == selected:
            conversation.leaf_id = row.id
        requests.append(Request(row.id, endpoint, prompt, side, left_out, user=conversation.user_id or ""))
    return requests


def _order_before(
    messages: Sequence[MessageView], line: Sequence[MessageView], endpoints: Sequence[str]
) -> list[int] | None:
    """Return the places of the endpoints in the order of the newest answers of a line; None of others."""
    newest = next((message.id for message in reversed(line) if message.role == "assistant"), None)
    names = [answer.endpoint for answer in answers_beside(messages, newest)] if newest else []
    is_same = len(set(names)) == len(names) == len(endpoints) and set(names) == set(endpoints)
    return [endpoints.index(name or "") for name in names] if is_same else None


def _begin(ctx: Context, requests: Sequence[Request]) -> None:
    for request in requests:
        ANSWERS.start(request.message_id, partial(generate, ctx, request))


def _start(session: Session, ctx: Context, person: Person) -> Conversation:
    row = Conversation(user_id=person.id, endpoint="", created_at=ctx.now(), updated_at=ctx.now())
    session.add(row)
    session.flush()
    return row


def _open(session: Session, conversation_id: str, person: Person) -> tuple[Conversation, list[MessageView]]:
    conversation = own_conversation(session, conversation_id, person)
    return conversation, _settled_messages(session, conversation_id)


def _settled_messages(session: Session, conversation_id: str) -> list[MessageView]:
    messages = read_messages(session, conversation_id)
    if any(message.is_running for message in messages):
        raise InvalidInput("An answer is still being generated here.", remedy="Wait for it, or stop it.")
    return messages


def _message(messages: Sequence[MessageView], message_id: str, *, role: str | None) -> MessageView:
    message = next((message for message in messages if message.id == message_id and role in (message.role, None)), None)
    if message is None:
        raise NotFound("There is no such message in this conversation.", remedy="Reload the page.")
    return message


def _prefix_before(answer: MessageView, token: int, instead: str) -> tuple[str, list[AnswerToken]]:
    tokens = list(answer.tokens or [])
    if not 0 <= token < len(tokens):
        raise InvalidInput(f"The answer has no token {token}.", remedy="Reload the page.", field="token")
    before = tokens[:token]
    raw = b"".join(bytes(item.get("bytes", ())) or item["text"].encode() for item in before)
    text = raw.decode("utf-8", "ignore") + instead
    return text, [*before, {"text": instead, "logprob": None, "top": tokens[token]["top"]}]


def _store_settings(conversation: Conversation, settings: ChatSettings) -> None:
    conversation.endpoint = settings.endpoints[0]
    conversation.other_endpoint = settings.endpoints[1] if len(settings.endpoints) > 1 else None
    conversation.system_prompt = settings.system
    conversation.sampling = settings
