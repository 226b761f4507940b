"""The ballot's HTTP interface: JSON beside the page, for a browser that holds a signed token.

- GET /ballot/api/next -> {battles, progress, form}
- POST /ballot/api/vote {battle, label, duration_ms, reasons, dimensions, note, rewrite, flag, amends, holds}
  -> {next, progress}
- POST /ballot/api/rate {battle, side, value, note, holds} -> {next, progress}
- POST /ballot/api/undo {} -> {battle, progress}
- GET /ballot/open?link= -> the ballot, after a cookie that tells this browser from others

The token comes in the header `Authorization: Bearer`, which no other site can make a browser send. `holds` lists the
ids of battles that the browser already has. Errors are {error, remedy}.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Coroutine
from typing import Any, Literal
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from backend.domain.attributes import attributes_of
from backend.domain.battles.campaign import CampaignConfig
from backend.domain.json_values import JsonObject
from backend.domain.markdown_nodes import markdown_nodes
from backend.errors import RoundhouseError
from backend.services.battles.assignment import VoteInput
from backend.services.battles.ballots import (
    BallotProgress,
    BallotView,
    ServedBallot,
    open_ballot,
    submit_rating,
    submit_vote,
    undo_vote,
)
from backend.services.battles.raters import BROWSER_COOKIE, Voter, voter_of_token
from backend.services.context import Context
from backend.web.proxies import TrustedProxies
from backend.web.replies import NEVER_STORED, bearer_token, parse_sent, read_body, refuse, reply, reply_error

MAX_BODY_BYTES = 300_000
COOKIE_AGE_S = 365 * 24 * 3600
NO_PROXIES = TrustedProxies()

Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]
Document = JsonObject


class BallotBody(BaseModel):
    """Base of the bodies."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    holds: tuple[str, ...] = Field(default=(), max_length=4)


class VoteBody(BallotBody, VoteInput):
    """A vote, or with `amends` more about one that was cast."""


class RateBody(BallotBody):
    """A grade of a single answer."""

    battle: str
    side: Literal["A", "B"] = "A"
    value: int
    note: str = ""


def ballot_routes(get_context: Callable[[], Context], *, proxies: TrustedProxies = NO_PROXIES) -> list[Route]:
    """Return the routes; the context is created at the first request."""

    def next_(ctx: Context, voter: Voter, _body: bytes) -> Document:
        ballot = open_ballot(ctx, voter)
        return {
            "battles": [battle_document(battle) for battle in ballot.battles],
            "progress": progress_document(ballot.progress),
            "form": form_document(ballot.config),
        }

    def vote(ctx: Context, voter: Voter, body: bytes) -> Document:
        sent = parse_sent(VoteBody, body)
        return _after(submit_vote(ctx, voter, sent), sent.holds)

    def undo(ctx: Context, voter: Voter, _body: bytes) -> Document:
        served = undo_vote(ctx, voter)
        return {"battle": battle_document(served.battles[0]), "progress": progress_document(served.progress)}

    def rate(ctx: Context, voter: Voter, body: bytes) -> Document:
        sent = parse_sent(RateBody, body)
        return _after(submit_rating(ctx, voter, sent.battle, value=sent.value, note=sent.note), sent.holds)

    async def open_link(request: Request) -> Response:
        """Set the cookie alone: previews load this address too, so the page binds the link later."""
        response = RedirectResponse(
            f"/ballot?{urlencode({'link': request.query_params.get('link', '')})}", status_code=303
        )
        response.headers.update(NEVER_STORED)
        if not request.cookies.get(BROWSER_COOKIE):
            secure, value = proxies.is_https(request), secrets.token_urlsafe(24)
            response.set_cookie(
                BROWSER_COOKIE, value, max_age=COOKIE_AGE_S, httponly=True, samesite="lax", secure=secure
            )
        return response

    def route(path: str, method: str, handle: Callable[[Context, Voter, bytes], Document]) -> Route:
        return Route(path, _endpoint(get_context, handle), methods=[method])

    return [
        route("/ballot/api/next", "GET", next_),
        route("/ballot/api/vote", "POST", vote),
        route("/ballot/api/undo", "POST", undo),
        route("/ballot/api/rate", "POST", rate),
        Route("/ballot/open", open_link, methods=["GET"]),
    ]


def battle_document(battle: BallotView) -> Document:
    """Return a battle as the browser gets it: texts, Markdown as nodes; nothing of origin, purpose or probability."""
    document: Document = {
        "id": battle.battle_id,
        "prompt": [list(turn) for turn in battle.prompt],
        "prompt_nodes": [markdown_nodes(text) for _, text in battle.prompt],
        "a": battle.text_a,
        "a_nodes": markdown_nodes(battle.text_a),
        "b": battle.text_b,
        "b_nodes": markdown_nodes(battle.text_b),
    }
    return document | ({"single": True} if battle.is_single else {})


def progress_document(progress: BallotProgress) -> Document:
    """Return a rater's progress."""
    counts = ("done", "skipped", "total", "median_s")
    return attributes_of(progress, *counts, "can_undo", "more_to_come", "is_queued", "closed")


def form_document(config: CampaignConfig) -> Document:
    """Return what a campaign's ballot asks."""
    return {
        **attributes_of(config, "question", "instructions"),
        "dimensions": [{"name": item.name, "question": item.question or item.name} for item in config.dimensions],
        "reasons": list(config.reasons),
        **attributes_of(config, "note", "rewrite", "rating", "break_after_min"),
    }


def _after(served: ServedBallot, holds: tuple[str, ...]) -> Document:
    """Return the battle that the browser lacks: the first that it does not hold, without `holds` the second."""
    battles = served.battles
    lacking = [battle for battle in battles if battle.battle_id not in holds] if holds else list(battles[1:] or battles)
    return {"next": battle_document(lacking[0]) if lacking else None, "progress": progress_document(served.progress)}


def _endpoint(get_context: Callable[[], Context], handle: Callable[[Context, Voter, bytes], Document]) -> Endpoint:
    async def answer(request: Request) -> Response:
        if not (token := bearer_token(request)):
            return reply_error("The ballot's token is missing.", "Reload the ballot.", 401)
        body = await read_body(request, limit=MAX_BODY_BYTES) if request.method == "POST" else b""
        if isinstance(body, Response):
            return body
        browser = request.cookies.get(BROWSER_COOKIE, "")
        return await run_in_threadpool(_respond, get_context, handle, token, browser, body)

    return answer


def _respond(
    get_context: Callable[[], Context],
    handle: Callable[[Context, Voter, bytes], Document],
    token: str,
    browser: str,
    body: bytes,
) -> Response:
    ctx = get_context()
    try:
        return reply(handle(ctx, voter_of_token(ctx, token, browser=browser), body))
    except RoundhouseError as error:
        return refuse(error)
