"""The ballot's HTTP interface: JSON beside the page, for a browser that holds a signed token.

    GET  /ballot/api/next   -> {battles, progress, form} POST /ballot/api/vote   {battle, label, duration_ms, reasons,
    dimensions, note, rewrite, flag, amends, holds} -> {next, progress} POST /ballot/api/undo   {} -> {battle, progress}
    POST /ballot/api/rate   {battle, side, value, note, holds} -> {next, progress} GET  /ballot/open?link= -> the
    ballot, after a cookie that tells this browser from others

The token comes in the header `Authorization: Bearer`, which no other site can make a browser send. `holds` lists the
ids of battles that the browser already has. Errors are {error, remedy}.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Coroutine
from typing import Any, Literal, TypeVar
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from backend.domain.battles.campaign import CampaignConfig
from backend.domain.markdown_nodes import markdown_nodes
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound, RoundhouseError
from backend.services.battles.admission import Voter, voter_of_token
from backend.services.battles.assignment.storing import VoteInput
from backend.services.battles.ballots import BallotProgress, BallotView, ServedBallot, TooFast
from backend.services.battles.raters import BROWSER_COOKIE
from backend.services.battles.voting import open_ballot, submit_rating, submit_vote, undo_vote
from backend.services.context import Context
from backend.web.proxies import TrustedProxies

NEVER_STORED = {"cache-control": "no-store"}
MAX_BODY_BYTES = 300_000
COOKIE_AGE_S = 365 * 24 * 3600
NO_PROXIES = TrustedProxies()
STATUS: dict[type[RoundhouseError], int] = {
    InvalidInput: 422,
    NotFound: 404,
    TooFast: 429,
    Conflict: 409,
    NotAllowed: 403,
}

Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]
Document = dict[str, Any]
Sent = TypeVar("Sent", bound="BallotBody")


class BallotBody(BaseModel):
    """Base of the bodies."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    holds: tuple[str, ...] = Field(default=(), max_length=4)


class VoteBody(BallotBody):
    """A vote, or with `amends` more about one that was cast."""

    battle: str
    label: str
    duration_ms: int | None = None
    reasons: tuple[str, ...] = Field(default=(), max_length=12)
    dimensions: dict[str, str] = Field(default_factory=dict, max_length=8)
    note: str = ""
    rewrite: str | None = None
    flag: str = ""
    amends: bool = False


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
        sent = _parse(VoteBody, body)
        said = VoteInput(
            battle_id=sent.battle,
            label=sent.label,
            duration_ms=sent.duration_ms,
            reasons=sent.reasons,
            dimensions=sent.dimensions,
            note=sent.note,
            rewrite=sent.rewrite,
            flag=sent.flag,
            amends=sent.amends,
        )
        return _after(submit_vote(ctx, voter, said), sent.holds)

    def undo(ctx: Context, voter: Voter, _body: bytes) -> Document:
        served = undo_vote(ctx, voter)
        return {"battle": battle_document(served.battles[0]), "progress": progress_document(served.progress)}

    def rate(ctx: Context, voter: Voter, body: bytes) -> Document:
        sent = _parse(RateBody, body)
        return _after(submit_rating(ctx, voter, sent.battle, value=sent.value, note=sent.note), sent.holds)

    async def open_link(request: Request) -> Response:
        """Set the cookie alone: programs that preview links load this address too, so the link is bound by the page,
        later.
        """
        response = RedirectResponse(
            f"/ballot?{urlencode({'link': request.query_params.get('link', '')})}", status_code=303
        )
        response.headers["cache-control"] = "no-store"
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
    """Return a battle as the browser gets it: texts, and their Markdown as nodes; nothing of its origin, purpose or
    probability.
    """
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
    return {
        "done": progress.done,
        "total": progress.total,
        "median_s": progress.median_s,
        "can_undo": progress.can_undo,
        "more_to_come": progress.more_to_come,
        "closed": progress.closed,
    }


def form_document(config: CampaignConfig) -> Document:
    """Return what a campaign's ballot asks."""
    return {
        "question": config.question,
        "dimensions": [{"name": item.name, "question": item.question or item.name} for item in config.dimensions],
        "reasons": list(config.reasons),
        "note": config.note,
        "rewrite": config.rewrite,
        "rating": config.rating,
        "break_after_min": config.break_after_min,
    }


def _after(served: ServedBallot, holds: tuple[str, ...]) -> Document:
    """Return the battle that the browser lacks: the first that it does not hold, without `holds` the second of the
    two.
    """
    battles = served.battles
    lacking = [battle for battle in battles if battle.battle_id not in holds] if holds else list(battles[1:] or battles)
    return {"next": battle_document(lacking[0]) if lacking else None, "progress": progress_document(served.progress)}


def _endpoint(get_context: Callable[[], Context], handle: Callable[[Context, Voter, bytes], Document]) -> Endpoint:
    async def answer(request: Request) -> Response:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return _error("The ballot's token is missing.", "Reload the ballot.", 401)
        body = b""
        if request.method == "POST":
            if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
                return _error("The body is not JSON.", "Send application/json.", 415)
            read = await _read(request)
            if read is None:
                return _error("The body is too large.", f"Send at most {MAX_BODY_BYTES:,} bytes.", 413)
            body = read
        browser = request.cookies.get(BROWSER_COOKIE, "")
        return await run_in_threadpool(_respond, get_context, handle, token.strip(), browser, body)

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
        document = handle(ctx, voter_of_token(ctx, token, browser=browser), body)
    except RoundhouseError as error:
        status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 400)
        return _error(error.message, error.remedy, status)
    return JSONResponse(document, headers=NEVER_STORED)


async def _read(request: Request) -> bytes | None:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            return None
    return bytes(body)


def _parse(schema: type[Sent], body: bytes) -> Sent:
    try:
        return schema.model_validate(json.loads(body))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise InvalidInput(f"{field or 'The body'}: {first['msg']}.", field=field or None) from error
    except (ValueError, RecursionError) as error:
        raise InvalidInput("The body is not JSON.", remedy="Send one JSON object.") from error


def _error(message: str, remedy: str, status: int) -> Response:
    return JSONResponse({"error": message, "remedy": remedy}, status_code=status, headers=NEVER_STORED)
