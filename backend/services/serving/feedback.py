"""Thumbs on answers: each row holds a copy of prompt and answer, so that a dataset can be made of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from backend.db.tables import Feedback
from backend.domain.serving.protocol import ChatMessage
from backend.errors import InvalidInput
from backend.services.context import Context, Person

Source = Literal["playground", "api"]


def give_feedback(
    ctx: Context,
    *,
    source: Source,
    source_id: str,
    endpoint: str,
    checkpoint_id: str | None,
    messages: Sequence[ChatMessage],
    answer: str,
    value: int,
    correction: str = "",
    person: Person,
) -> None:
    """Store a thumb, 1 or -1, in place of an earlier one on the same answer; 0 takes it back. The caller has checked that the answer is
    the person's own. Raises InvalidInput for another value.
    """
    if value not in (-1, 0, 1):
        raise InvalidInput(f"{value} is no thumb.", remedy="Send 1, -1, or 0 to take it back.", field="value")
    with ctx.db.write() as session:
        session.execute(delete(Feedback).where(Feedback.source == source, Feedback.request_id == source_id))
        if value:
            session.add(
                Feedback(
                    source=source,
                    request_id=source_id,
                    user_id=person.id,
                    endpoint=endpoint[:80],
                    checkpoint_id=checkpoint_id,
                    messages=[message.as_dict() for message in messages],
                    answer=answer,
                    correction=correction,
                    rating=value,
                    created_at=ctx.now(),
                )
            )


def thumbs_of(session: Session, source: Source, source_ids: Collection[str]) -> dict[str, int]:
    """Return the thumbs on answers by their ids."""
    query = select(Feedback.request_id, Feedback.rating).where(Feedback.source == source, Feedback.request_id.in_(source_ids))
    return {source_id: rating for source_id, rating in session.execute(query) if rating is not None}
