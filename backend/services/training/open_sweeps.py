"""List unfinished sweeps. Imports no service, so that a worker can call it every few seconds."""

from __future__ import annotations

from sqlalchemy import select

from backend.db.tables import RunGroup
from backend.services.context import Context

KIND = "sweep"


def list_open_sweeps(ctx: Context) -> list[str]:
    """Return the ids of sweeps that are neither done nor archived."""
    with ctx.db.read() as session:
        rows = session.execute(
            select(RunGroup.id, RunGroup.result).where(RunGroup.kind == KIND, RunGroup.archived_at.is_(None))
        )
        return [group_id for group_id, result in rows if not result.done]
