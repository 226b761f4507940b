"""Thumbs on answers, and feedback of programs: each row holds a copy of prompt and answer, so that a dataset can be
made of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal

from sqlalchemy import Select, and_, delete, func, select
from sqlalchemy.orm import Session

from backend.db.tables import Endpoint, Feedback, LoggedRequest, Message, Usage
from backend.domain.serving.protocol import ChatMessage
from backend.errors import InvalidInput
from backend.services.context import Context, Person

Source = Literal["playground", "api"]
RATED_REQUEST = func.coalesce(Message.usage["request_id"].as_string(), Feedback.request_id)
"""The request that a row of `given_feedback` is on."""


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
    """Store a thumb, 1 or -1, in place of an earlier one on the same answer; 0 takes it back. The caller has checked
    that the answer is the person's own. Raises InvalidInput for another value.
    """
    if value not in (-1, 0, 1):
        raise InvalidInput(f"{value} is not a thumb.", remedy="Send 1, -1, or 0 to take it back.", field="value")
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


def thumbs_of(session: Session, message_ids: Collection[str]) -> dict[str, int]:
    """Return the thumbs on the playground's answers by their ids."""
    query = select(Feedback.request_id, Feedback.rating).where(
        Feedback.source == "playground", Feedback.request_id.in_(message_ids)
    )
    return {message_id: rating for message_id, rating in session.execute(query) if rating is not None}


def given_feedback(*columns: Any) -> Select[Any]:
    """Return a query for the request that each feedback is on, before other columns. A message of the playground names
    its request.
    """
    of_message = and_(Feedback.source == "playground", Message.id == Feedback.request_id)
    return select(RATED_REQUEST, *columns).select_from(Feedback).outerjoin(Message, of_message)


def feedback_of_requests(session: Session, request_ids: Collection[str]) -> dict[str, Feedback]:
    """Return the newest feedback on requests by their ids, that of the playground too."""
    direct = given_feedback(Feedback).where(Feedback.source == "api", Feedback.request_id.in_(request_ids))
    played = given_feedback(Feedback).where(Feedback.source == "playground", RATED_REQUEST.in_(request_ids))
    rows = [(request, row) for query in (direct, played) for request, row in session.execute(query)]
    return dict(sorted(rows, key=lambda pair: pair[1].created_at))


def store_feedback(
    ctx: Context, request_id: str, *, key_id: str | None, rating: int | None, correction: str = "", comment: str = ""
) -> bool:
    """Store a program's feedback on its own request, in place of an earlier one; return False where the key made no
    such request.

    Prompt and answer are copied where they were logged, so that a dataset can be made of them.
    """
    with ctx.db.write() as session:
        usage = session.get(Usage, request_id)
        if usage is None or usage.key_id != key_id:
            return False
        logged = session.get(LoggedRequest, request_id)
        session.execute(delete(Feedback).where(Feedback.source == "api", Feedback.request_id == request_id))
        session.add(
            Feedback(
                request_id=request_id,
                source="api",
                rating=rating,
                correction=correction,
                comment=comment,
                key_id=key_id,
                endpoint=session.scalar(select(Endpoint.name).where(Endpoint.id == usage.endpoint_id)),
                checkpoint_id=usage.checkpoint_id,
                messages=None if logged is None else logged.messages,
                answer=None if logged is None else logged.answer,
                created_at=ctx.now(),
            )
        )
        return True
