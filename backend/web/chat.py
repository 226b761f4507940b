"""The playground's HTTP interface: JSON beside the page, for a browser that holds a signed token.

    GET  /playground/api/chat?conversation=    -> a conversation
    POST /playground/api/send                  {conversation, text, settings, edited} -> a conversation
    POST /playground/api/regenerate            {conversation, message, settings} -> a conversation
    POST /playground/api/continue              {conversation, message, settings, token, instead, together} -> the same
    POST /playground/api/results               {conversation, message, results, settings} -> a conversation
    POST /playground/api/stop                  {conversation} -> a conversation
    POST /playground/api/select                {conversation, message, round} -> a conversation
    POST /playground/api/vote                  {conversation, message, label} -> a conversation
    POST /playground/api/rate                  {conversation, message, value} -> a conversation
    GET  /playground/api/stream?conversation=  -> server-sent events {id, keep, nodes, usage, status} of coming answers

A POST with `Accept: text/event-stream` gets the conversation as its first event, `document`, then those of its answers,
so that one request sends a message and reads the answer. The token comes in the header `Authorization: Bearer`, which
no other site can make a browser send. Errors are {error, remedy}.

Server-sent events come from this process's memory or, for another's answers, from the database. Each event holds the
blocks of an answer's Markdown that changed. A reader that comes later, after a reload or in a
second tab, gets the answer from its beginning.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from backend.domain.json_values import JsonObject
from backend.domain.markdown_nodes import Node, markdown_nodes
from backend.domain.serving.chat import AnswerUsage, ChatSettings
from backend.errors import RoundhouseError
from backend.services.context import Context, Person
from backend.services.serving.chat.generation import ANSWERS, LiveAnswer
from backend.services.serving.chat.judgements import rate_answer, vote_on_answers
from backend.services.serving.chat.reading import ChatView, changed_nodes, chat_document, read_chat, read_running
from backend.services.serving.chat.turns import continue_answer, regenerate, send_message, send_results, stop_answers
from backend.services.serving.conversations import person_of_token, select_branch
from backend.web.replies import NEVER_STORED, bearer_token, parse_sent, read_body, refuse, reply

MAX_BODY_BYTES = 2_000_000
EVENTS = "text/event-stream"
Handler = Callable[[Request], Coroutine[Any, Any, Response]]
Handle = Callable[[Context, Person, bytes], str]
Document = JsonObject


class ConversationBody(BaseModel):
    """Base of the bodies."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    conversation: str


class SendBody(ConversationBody):
    """A message. Without `conversation` it begins one; `edited` is the question that it replaces, `after` the last one
    that the browser shows.
    """

    conversation: str | None = None  # type: ignore[assignment]
    text: str
    settings: ChatSettings
    edited: str | None = None
    after: str | None = None


class RegenerateBody(ConversationBody):
    """An answer to give again."""

    message: str
    settings: ChatSettings


class ContinueBody(RegenerateBody):
    """An answer to continue: from its end, or before `token` with `instead` in its place; `together` with others."""

    token: int | None = None
    instead: str = ""
    together: bool = False


class ResultsBody(RegenerateBody):
    """Results of the tools that an answer calls, one text a call."""

    results: list[str]


class SelectBody(ConversationBody):
    """The line to show: through a message, or through another round beside it."""

    message: str
    round: int | None = None


class SideVoteBody(ConversationBody):
    """A vote on answers side by side."""

    message: str
    label: str


class ThumbBody(ConversationBody):
    """A thumb on an answer."""

    message: str
    value: int


def chat_routes(get_context: Callable[[], Context]) -> list[Route]:
    """Return the routes; the context is created at the first request."""

    async def stream(request: Request) -> Response:
        ctx = get_context()
        conversation = request.query_params.get("conversation", "")
        try:
            person = await run_in_threadpool(person_of_token, ctx, bearer_token(request))
            running = await run_in_threadpool(read_running, ctx, conversation, person=person)
        except RoundhouseError as error:
            return refuse(error)
        return _events(stream_chat(ctx, conversation, running, person=person))

    async def read(request: Request) -> Response:
        conversation = request.query_params.get("conversation", "")
        return await run_in_threadpool(_respond, get_context, request, lambda _ctx, _person, _body: conversation, b"")

    return [
        Route("/playground/api/chat", read, methods=["GET"]),
        Route("/playground/api/stream", stream, methods=["GET"]),
        *(
            Route(f"/playground/api/{name}", _endpoint(get_context, handle), methods=["POST"])
            for name, handle in HANDLERS.items()
        ),
    ]


def _send(ctx: Context, person: Person, body: bytes) -> str:
    sent = parse_sent(SendBody, body)
    values = sent.model_dump(include={"edited", "after"})
    return send_message(ctx, sent.conversation, sent.text, settings=sent.settings, **values, person=person)


def _again(ctx: Context, person: Person, body: bytes) -> str:
    sent = parse_sent(RegenerateBody, body)
    regenerate(ctx, sent.conversation, sent.message, settings=sent.settings, person=person)
    return sent.conversation


def _continue(ctx: Context, person: Person, body: bytes) -> str:
    sent = parse_sent(ContinueBody, body)
    at: dict[str, Any] = {"token": sent.token, "instead": sent.instead, "together": sent.together}
    continue_answer(ctx, sent.conversation, sent.message, settings=sent.settings, **at, person=person)
    return sent.conversation


def _results(ctx: Context, person: Person, body: bytes) -> str:
    sent = parse_sent(ResultsBody, body)
    send_results(ctx, sent.conversation, sent.message, sent.results, settings=sent.settings, person=person)
    return sent.conversation


def _stop(ctx: Context, person: Person, body: bytes) -> str:
    sent = parse_sent(ConversationBody, body)
    stop_answers(ctx, sent.conversation, person=person)
    return sent.conversation


def _select(ctx: Context, person: Person, body: bytes) -> str:
    sent = parse_sent(SelectBody, body)
    select_branch(ctx, sent.conversation, sent.message, round_=sent.round, person=person)
    return sent.conversation


def _vote(ctx: Context, person: Person, body: bytes) -> str:
    sent = parse_sent(SideVoteBody, body)
    vote_on_answers(ctx, sent.conversation, sent.message, sent.label, person=person)
    return sent.conversation


def _rate(ctx: Context, person: Person, body: bytes) -> str:
    sent = parse_sent(ThumbBody, body)
    rate_answer(ctx, sent.conversation, sent.message, sent.value, person=person)
    return sent.conversation


HANDLERS: dict[str, Handle] = {
    "send": _send,
    "regenerate": _again,
    "continue": _continue,
    "results": _results,
    "stop": _stop,
    "select": _select,
    "vote": _vote,
    "rate": _rate,
}


def _endpoint(get_context: Callable[[], Context], handle: Handle) -> Handler:
    async def answer(request: Request) -> Response:
        body = await read_body(request, limit=MAX_BODY_BYTES)
        if isinstance(body, Response):
            return body
        if EVENTS not in request.headers.get("accept", ""):
            return await run_in_threadpool(_respond, get_context, request, handle, body)
        ctx = get_context()
        try:
            person, view, document = await run_in_threadpool(_act, ctx, request, handle, body)
        except RoundhouseError as error:
            return refuse(error)
        running = [
            (message.id, turn.is_hidden) for turn in view.turns for message in turn.messages if message.is_running
        ]
        return _events(stream_chat(ctx, view.conversation.id, running, document=document, person=person))

    return answer


def _act(ctx: Context, request: Request, handle: Handle, body: bytes) -> tuple[Person, ChatView, Document]:
    person = person_of_token(ctx, bearer_token(request))
    view = read_chat(ctx, handle(ctx, person, body), person=person)
    return person, view, chat_document(view)


def _events(events: AsyncGenerator[str, None]) -> Response:
    return StreamingResponse(events, media_type=EVENTS, headers={**NEVER_STORED, "x-accel-buffering": "no"})


def _respond(get_context: Callable[[], Context], request: Request, handle: Handle, body: bytes) -> Response:
    try:
        _, _, document = _act(get_context(), request, handle, body)
        return reply(document)
    except RoundhouseError as error:
        return refuse(error)


MIN_PAUSE_S = 0.04
SHARE_OF_PARSING = 0.2  # of one core, at most, for one answer
POLL_S = 0.4
KEEP_OPEN_S = 10.0


async def stream_chat(
    ctx: Context,
    conversation_id: str,
    running: Sequence[tuple[str, bool]],
    *,
    document: Mapping[str, object] | None = None,
    person: Person,
) -> AsyncGenerator[str, None]:
    """Yield events until none of the answers, given with whether they are hidden, is on its way; the last one is `end`,
    the first one the conversation's `document` where it is given.
    """
    if document is not None:
        yield f"event: document\ndata: {json.dumps(document, separators=(',', ':'))}\n\n"
    events: asyncio.Queue[str | None] = asyncio.Queue()
    reader = _Reader(ctx, conversation_id, person, events)
    reading = asyncio.create_task(reader.read_all(running))
    try:
        while True:
            try:
                async with asyncio.timeout(KEEP_OPEN_S):
                    event = await events.get()
            except TimeoutError:
                yield ": waiting\n\n"
                continue
            if event is None:
                break
            yield event
        yield "event: end\ndata: {}\n\n"
    finally:
        reading.cancel()


@dataclass(frozen=True)
class _Reader:
    """Reads the answers of one conversation for one reader."""

    ctx: Context
    conversation_id: str
    person: Person
    events: asyncio.Queue[str | None]

    async def read_all(self, running: Sequence[tuple[str, bool]]) -> None:
        """Read every answer to its end, then put None."""
        try:
            await asyncio.gather(*(self._read(message_id, is_hidden) for message_id, is_hidden in running))
        finally:
            self.events.put_nowait(None)

    async def _read(self, message_id: str, is_hidden: bool) -> None:
        answer = ANSWERS.get(message_id)
        if answer is None:
            await self._read_stored(message_id)
        elif is_hidden:
            while not answer.is_done:
                await answer.wait(answer.version)
        else:
            await self._read_live(answer)

    async def _read_live(self, answer: LiveAnswer) -> None:
        drawn: list[Node] = []
        while True:
            version, is_done, text = answer.version, answer.is_done, answer.text
            started = time.perf_counter()
            nodes = markdown_nodes(text)
            spent = time.perf_counter() - started
            begun = bool(text or answer.usage.tool_calls)
            if begun or is_done:
                self.events.put_nowait(
                    _event(answer.message_id, drawn, nodes, usage=answer.usage, status=answer.status)
                )
                drawn = nodes
            if is_done:
                return
            if begun:
                await asyncio.sleep(max(MIN_PAUSE_S, spent / SHARE_OF_PARSING))
            await answer.wait(version)

    async def _read_stored(self, message_id: str) -> None:
        drawn: list[Node] = []
        while True:
            view = await run_in_threadpool(read_chat, self.ctx, self.conversation_id, person=self.person)
            message = next((m for turn in view.turns for m in turn.messages if m.id == message_id), None)
            if message is None or not message.is_running:
                return
            nodes = await run_in_threadpool(markdown_nodes, message.content)
            if nodes != drawn:
                self.events.put_nowait(_event(message_id, drawn, nodes, usage=message.usage, status="running"))
                drawn = nodes
            await asyncio.sleep(POLL_S)


def _event(message_id: str, before: list[Node], after: list[Node], *, usage: AnswerUsage, status: str) -> str:
    keep, nodes = changed_nodes(before, after)
    document = {
        "id": message_id,
        "keep": keep,
        "nodes": nodes,
        "tokens": usage.completion_tokens,
        "status": status,
    }
    if calls := usage.tool_calls:
        document["calls"] = calls
    return f"data: {json.dumps(document, separators=(',', ':'))}\n\n"
