"""Requests that replicas lost. Another replica may have answered, so usage alone would not show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from backend.db.tables import ReplicaFailure
from backend.services.context import Context


@dataclass(frozen=True)
class LostRequest:
    """A request that a replica lost, with the reason as metrics name it."""

    id: str
    replica_id: str
    reason: str
    created_at: datetime


def add_failures(ctx: Context, rows: Sequence[LostRequest]) -> None:
    """Store lost requests. A repeated id is stored once."""
    with ctx.db.write() as session:
        known = set(session.scalars(select(ReplicaFailure.id).where(ReplicaFailure.id.in_([row.id for row in rows]))))
        session.add_all(
            ReplicaFailure(id=row.id, replica_id=row.replica_id, reason=row.reason[:40], created_at=row.created_at)
            for row in rows
            if row.id not in known
        )
