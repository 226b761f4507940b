"""Usage of endpoints through the gateway and the playground: one row per request; and requests that replicas lost.
Another replica may have answered those, so usage alone would not show them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Literal

from sqlalchemy import insert, select

from backend.db.engine import retry_races
from backend.db.tables import Deployment, Endpoint, Replica, ReplicaFailure, Usage
from backend.domain.serving.request_log import LoggedBody, clean_model_name
from backend.services.context import Context
from backend.services.serving.endpoints import ServedAdapter, endpoints_of_aliases, served_adapters
from backend.services.serving.monitoring.rollups import add_traffic
from backend.services.serving.request_log.policies import log_requests

UsageStatus = Literal["finished", "aborted", "lost", "refused"]


@dataclass(frozen=True)
class UsageRow:
    """One request. Times in milliseconds. `status`: finished; aborted (the client left); lost (no replica completed
    it); refused (the request is invalid, such as a prompt longer than the context). Where a client was refused in a
    loop, one row stands for several `requests`.
    """

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
    variant: str = ""
    cached_tokens: int = 0
    itl_ms: float | None = None  # mean time between tokens
    queue_ms: float | None = None
    job_id: str | None = None
    # times between tokens, counted by bucket (backend.domain.serving.latency)
    gaps: Mapping[int, int] = field(default_factory=dict)
    device_s: float | None = None
    cost_usd: float | None = None
    finish_reason: str | None = None
    logged: LoggedBody | None = None
    requests: int = 1


COPIED = tuple(one.name for one in fields(UsageRow) if one.name in Usage.__table__.columns)
"""Fields that the table has too."""


@retry_races
def add_usage(ctx: Context, rows: Sequence[UsageRow]) -> None:
    """Store a batch of requests. A repeated id is stored once."""
    with ctx.db.write() as session:
        ids: dict[str, str | None] = dict(session.execute(select(Endpoint.name, Endpoint.id)).all())
        adapters: dict[str, ServedAdapter] = {}
        if any(row.endpoint not in ids for row in rows):
            ids |= {alias: ids[name] for alias, name in endpoints_of_aliases(session).items()}
            adapters = served_adapters(session)
            ids |= {row.endpoint: ids.get(row.endpoint.rpartition(":")[0]) for row in rows if row.endpoint not in ids}
        known = set(session.scalars(select(Usage.id).where(Usage.id.in_([row.id for row in rows]))))
        replicas = session.execute(
            select(Replica.id, Deployment.id, Deployment.checkpoint_id)
            .join(Deployment, Deployment.id == Replica.deployment_id)
            .where(Replica.id.in_({row.replica_id for row in rows if row.replica_id}))
        ).all()
        deployments = {replica_id: deployment_id for replica_id, deployment_id, _ in replicas}
        served = {replica_id: checkpoint_id for replica_id, _, checkpoint_id in replicas}
        new = {row.id: row for row in rows if row.id not in known}
        served_by = {
            row.id: (
                adapters[row.endpoint].checkpoint_id if row.endpoint in adapters else served.get(row.replica_id or "")
            )
            for row in new.values()
        }
        stored = [
            _stored(
                row,
                endpoint_id=ids.get(row.endpoint),
                checkpoint_id=served_by[row.id],
                adapter=adapters.get(row.endpoint),
            )
            for row in new.values()
        ]
        if stored:
            session.execute(insert(Usage), stored)
        log_requests(session, stored, {row.id: row.logged for row in new.values() if row.logged is not None})
        add_traffic(session, stored, {row.id: row.gaps for row in new.values()}, deployments=deployments)


def _stored(
    row: UsageRow, *, endpoint_id: str | None, checkpoint_id: str | None, adapter: ServedAdapter | None
) -> dict[str, object]:
    """Return the values of a request's row. A row as an object of the session took three times as long to store."""
    return {
        **{name: getattr(row, name) for name in COPIED},
        "endpoint_id": endpoint_id,
        "asked_model": None if endpoint_id else clean_model_name(row.endpoint) or None,
        "checkpoint_id": checkpoint_id,
        "variant": row.variant or (adapter.name if adapter else ""),
    }


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
