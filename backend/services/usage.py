"""What went through the gateway, one row a request."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import func, select

from backend.db.tables import Endpoint, Usage
from backend.services.context import Context


@dataclass(frozen=True)
class UsageRow:
    """One finished or broken-off request. Times in milliseconds."""

    request_id: str
    endpoint: str
    key_id: str | None
    replica_id: str | None
    prompt_tokens: int
    completion_tokens: int
    ttft_ms: float | None
    total_ms: float
    status: str


@dataclass(frozen=True)
class UsageSummary:
    """Totals of one endpoint."""

    endpoint: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    mean_ttft_ms: float | None


def add_usage(ctx: Context, records: list[UsageRow]) -> None:
    """Store a batch of requests."""
    with ctx.db.write() as session:
        ids = dict(session.execute(select(Endpoint.name, Endpoint.id)).tuples().all())
        known = set(session.scalars(select(Usage.id).where(Usage.id.in_([record.request_id for record in records]))))
        session.add_all(
            Usage(
                id=record.request_id, endpoint_id=ids.get(record.endpoint), key_id=record.key_id, replica_id=record.replica_id,
                prompt_tokens=record.prompt_tokens, completion_tokens=record.completion_tokens, ttft_ms=record.ttft_ms,
                total_ms=record.total_ms, status=record.status, created_at=ctx.now(),
            )
            for record in {r.request_id: r for r in records}.values()
            if record.request_id not in known
        )  # fmt: skip


def summarise_usage(ctx: Context, *, hours: float = 24.0) -> list[UsageSummary]:
    """Return totals by endpoint over the last hours."""
    since = ctx.now() - timedelta(hours=hours)
    with ctx.db.read() as session:
        rows = session.execute(
            select(Endpoint.name, func.count(), func.sum(Usage.prompt_tokens), func.sum(Usage.completion_tokens), func.avg(Usage.ttft_ms))
            .join(Endpoint, Endpoint.id == Usage.endpoint_id)
            .where(Usage.created_at > since)
            .group_by(Endpoint.name)
            .order_by(Endpoint.name)
        )
        return [UsageSummary(name, n, int(p or 0), int(c or 0), float(t) if t is not None else None) for name, n, p, c, t in rows]
