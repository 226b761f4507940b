"""The playground's HTTP interface: JSON beside the page, for a browser that holds a signed token.

    GET  /playground/api/chat?conversation=    -> a conversation POST /playground/api/send
    {conversation, text, settings, edited} -> a conversation POST /playground/api/regenerate            {conversation,
    message, settings} -> a conversation POST /playground/api/continue              {conversation, message, settings,
    token, instead, together} -> a conversation POST /playground/api/results               {conversation, message,
    results, settings} -> a conversation POST /playground/api/stop                  {conversation} -> a conversation
    POST /playground/api/select                {conversation, message, round} -> a conversation POST
    /playground/api/vote                  {conversation, message, label} -> a conversation POST /playground/api/rate
    {conversation, message, value} -> a conversation GET  /playground/api/stream?conversation=  -> server-sent events:
    {id, keep, nodes, usage, status} of the answers on their way

A POST with `Accept: text/event-stream` gets the conversation as its first event, `document`, then those of its answers,
so that one request sends a message and reads the answer. The token comes in the header `Authorization: Bearer`, which
no other site can make a browser send. Errors are {error, remedy}.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from pydantic import BaseModel, ConfigDict
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from backend.domain.json_values import JsonObject
from backend.domain.serving.chat_settings import ChatSettings
from backend.errors import RoundhouseError
from backend.services.context import Context, Person
from backend.services.serving.chat.admission import person_of_token
from backend.services.serving.chat.documents import chat_document
from backend.services.serving.chat.judgements import rate_answer, vote_on_answers
from backend.services.serving.chat.reading import ChatView, read_chat, read_running
from backend.services.serving.chat.turns import continue_answer, regenerate, send_message, send_results, stop_answers
from backend.services.serving.conversations import select_branch
from backend.web.chat_stream import stream_chat
from backend.web.replies import NEVER_STORED, bearer_token, parse_sent, read_body, refuse, reply

MAX_BODY_BYTES = 2_000_000
EVENTS = "text/event-stream"
Handler = Callable[[Request], Coroutine[Any, Any, Response]]
Handle = Callable[[Context, Person, bytes], str]
Document = JsonObject


class ChatBody(BaseModel):
    """Base of the bodies."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    conversation: str


class SendBody(ChatBody):
    """A message. Without `conversation` it begins one; `edited` is the question that it replaces."""

    conversation: str | None = None  # type: ignore[assignment]
    text: str
    settings: ChatSettings
    edited: str | None = None


class RegenerateBody(ChatBody):
    """An answer to give again."""

    message: str
    settings: ChatSettings


class ContinueBody(RegenerateBody):
    """An answer to continue: from its end, or before `token` with `instead` in its place; `together` with those beside
    it.
    """

    token: int | None = None
    instead: str = ""
    together: bool = False


class ResultsBody(RegenerateBody):
    """Results of the tools that an answer calls, one text a call."""

    results: list[str]


class SelectBody(ChatBody):
    """The line to show: through a message, or through another round beside it."""

    message: str
    round: int | None = None


class SideVoteBody(ChatBody):
    """A vote on answers side by side."""

    message: str
    label: str


class ThumbBody(ChatBody):
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
    return send_message(ctx, sent.conversation, sent.text, settings=sent.settings, edited=sent.edited, person=person)


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
    sent = parse_sent(ChatBody, body)
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
