"""Usage of endpoints through the gateway and the playground: one row per request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import select

from backend.db.tables import Endpoint, Usage
from backend.services.context import Context
from backend.services.serving.endpoints import endpoints_of_aliases

UsageStatus = Literal["finished", "aborted", "lost", "refused"]


@dataclass(frozen=True)
class UsageRow:
    """One request. Times in milliseconds. `status`: finished; aborted (the client left); lost (no replica completed it); refused (the
    request is invalid, such as a prompt longer than the context)."""

    id: str
    endpoint: str
    key_id: str | None
    replica_id: str | None
    prompt_tokens: int
    completion_tokens: int
    ttft_ms: float | None
    total_ms: float
    status: UsageStatus
    created_at: datetime


def add_usage(ctx: Context, rows: Sequence[UsageRow]) -> None:
    """Store a batch of requests. A repeated id is stored once."""
    with ctx.db.write() as session:
        ids = dict(session.execute(select(Endpoint.name, Endpoint.id)).all())
        if any(row.endpoint not in ids for row in rows):
            ids |= {alias: ids[name] for alias, name in endpoints_of_aliases(session).items()}
        known = set(session.scalars(select(Usage.id).where(Usage.id.in_([row.id for row in rows]))))
        session.add_all(
            Usage(
                id=row.id,
                endpoint_id=ids.get(row.endpoint),
                key_id=row.key_id,
                replica_id=row.replica_id,
                prompt_tokens=row.prompt_tokens,
                completion_tokens=row.completion_tokens,
                ttft_ms=row.ttft_ms,
                total_ms=row.total_ms,
                status=row.status,
                created_at=row.created_at,
            )
            for row in {row.id: row for row in rows}.values()
            if row.id not in known
        )
