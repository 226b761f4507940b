"""Feedback of programs on answers."""

from __future__ import annotations

from sqlalchemy import delete, select

from backend.db.tables import Endpoint, Feedback, LoggedRequest, Usage
from backend.services.context import Context


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
