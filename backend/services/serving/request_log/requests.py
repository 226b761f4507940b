"""Requests of an endpoint as pages show them, and feedback of programs on their answers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select

from backend.db.tables import ApiKey, Endpoint, Feedback, LoggedRequest, Usage
from backend.services.context import Context
from backend.services.serving.endpoints import find_endpoint


@dataclass(frozen=True)
class RequestView:
    """One request, with its body where it was logged."""

    id: str
    created_at: datetime
    key: str | None
    status: str
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    ttft_ms: float | None
    total_ms: float | None
    cost_usd: float | None
    messages: list[dict[str, Any]] | None
    answer: str | None


def list_requests(ctx: Context, name: str, *, limit: int = 20) -> list[RequestView]:
    """Return an endpoint's requests, newest first."""
    with ctx.db.read() as session:
        rows = session.execute(
            select(Usage, ApiKey.name, LoggedRequest)
            .outerjoin(ApiKey, ApiKey.id == Usage.key_id)
            .outerjoin(LoggedRequest, LoggedRequest.id == Usage.id)
            .where(Usage.endpoint_id == find_endpoint(session, name).id)
            .order_by(Usage.created_at.desc())
            .limit(limit)
        ).all()
    return [
        RequestView(
            id=usage.id,
            created_at=usage.created_at,
            key=key,
            status=usage.status,
            finish_reason=usage.finish_reason,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            ttft_ms=usage.ttft_ms,
            total_ms=usage.total_ms,
            cost_usd=usage.cost_usd,
            messages=None if logged is None or logged.messages is None else list(logged.messages),
            answer=None if logged is None else logged.answer,
        )
        for usage, key, logged in rows
    ]


def store_feedback(
    ctx: Context, request_id: str, *, key_id: str | None, rating: int | None, correction: str = "", comment: str = ""
) -> bool:
    """Store a program's feedback on its own request, in place of an earlier one; return False where the key made no such request.

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
