"""Responses of `/v1/responses` that later ones may follow: stored by account, erased after their time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from backend.db.tables import StoredResponse
from backend.domain.attributes import attributes_of
from backend.domain.json_values import JsonObject
from backend.errors import InvalidInput, NotFound
from backend.services.context import Context

MAX_TURNS = 500
MAX_PER_OWNER = 20_000


@dataclass(frozen=True)
class ResponseRecord:
    """A response with the items of its turn's input. `owner` is an account, or a key without one, or empty."""

    id: str
    owner: str
    endpoint: str
    previous_id: str | None
    items: Sequence[JsonObject]
    document: JsonObject


def keep_response(ctx: Context, record: ResponseRecord) -> None:
    """Store a response for as long as the operator allows (`keep_responses_days`)."""
    with ctx.db.write() as session:
        session.add(
            StoredResponse(
                **attributes_of(record, "id", "owner", "endpoint", "previous_id", "document"),
                items=list(record.items),
                created_at=ctx.now(),
                expires_at=ctx.now() + timedelta(days=ctx.policy.keep_responses_days),
            )
        )


def list_turns(ctx: Context, response_id: str, *, owner: str) -> list[ResponseRecord]:
    """Return a response and those that it follows, oldest first. Raises NotFound, InvalidInput for too many."""
    turns: list[ResponseRecord] = []
    next_id: str | None = response_id
    with ctx.db.read() as session:
        while next_id is not None:
            if len(turns) == MAX_TURNS:
                raise InvalidInput(
                    f"A conversation of more than {MAX_TURNS} responses is not continued.", field="previous_response_id"
                )
            turns.append(_record(_find(session, ctx, next_id, owner)))
            next_id = turns[-1].previous_id
    return turns[::-1]


def erase_response(ctx: Context, response_id: str, *, owner: str) -> None:
    """Erase an owner's response. Raises NotFound, also for another's."""
    with ctx.db.erase() as session:
        session.delete(_find(session, ctx, response_id, owner))


def forget_responses(ctx: Context) -> int:
    """Erase responses past their time, and the oldest of an owner with too many; return how many."""
    counted = select(StoredResponse.owner).group_by(StoredResponse.owner).having(func.count() > MAX_PER_OWNER)
    with ctx.db.read() as session:
        owners = session.scalars(counted).all()
        is_any = session.scalar(select(StoredResponse.id).where(StoredResponse.expires_at <= ctx.now()).limit(1))
    if is_any is None and not owners:
        return 0
    with ctx.db.erase() as session:
        erased: list[Any] = [session.execute(delete(StoredResponse).where(StoredResponse.expires_at <= ctx.now()))]
        for owner in owners:
            own = StoredResponse.owner == owner
            newest = select(StoredResponse.created_at).where(own).order_by(StoredResponse.created_at.desc())
            oldest_kept = session.scalar(newest.offset(MAX_PER_OWNER - 1).limit(1))
            if oldest_kept is not None:
                erased.append(
                    session.execute(delete(StoredResponse).where(own, StoredResponse.created_at < oldest_kept))
                )
        return sum(int(result.rowcount) for result in erased)


def _find(session: Session, ctx: Context, response_id: str, owner: str) -> StoredResponse:
    row = session.get(StoredResponse, response_id)
    if row is None or row.owner != owner or row.expires_at <= ctx.now():
        remedy = "It may have been erased; send the whole conversation."
        raise NotFound(f"There is no response {response_id!r} of this account.", remedy=remedy)
    return row


def _record(row: StoredResponse) -> ResponseRecord:
    return ResponseRecord(row.id, row.owner, row.endpoint, row.previous_id, row.items, row.document)
