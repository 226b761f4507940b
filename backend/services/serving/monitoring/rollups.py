"""Rollups: sums per minute, ten minutes and hour, so that a month of traffic is read from few rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from backend.db.tables import GaugeRollup, TrafficRollup
from backend.domain.serving.latency import Counts, add_counts, bucket_of
from backend.services.serving.replicas import STABLE

KEPT = {60: timedelta(hours=26), 600: timedelta(days=8), 3600: timedelta(days=400)}
"""Widths of the intervals in seconds, and how long each is kept."""

FAILURES = ("lost", "refused", "aborted")
"""Statuses of requests that a rollup counts in columns of the same names."""
COUNTS = ("requests", *FAILURES, "prompt_tokens", "cached_tokens", "completion_tokens")
SUMS = (*COUNTS, "device_s", "cost_usd")
HISTOGRAMS = ("ttft", "itl", "total", "queue")


@dataclass(frozen=True)
class GaugeValue:
    """One value of a gauge."""

    subject: str
    name: str
    value: float


def interval_start(moment: datetime, width_s: int) -> datetime:
    """Return the start of the interval that holds a moment."""
    seconds = int(moment.timestamp())
    return datetime.fromtimestamp(seconds - seconds % width_s, UTC)


def rollup_variant(variant: str, deployment_id: str | None) -> str:
    """Return the variant of a request's rollup: of a stable revision, with its deployment, so that each has its own
    figures. A canary's variant is its deployment.
    """
    return f"{STABLE}:{deployment_id}" if variant == STABLE and deployment_id else variant


def add_traffic(
    session: Session,
    rows: Sequence[Mapping[str, Any]],
    gaps: Mapping[str, Mapping[int, int]],
    *,
    deployments: Mapping[str, str],
) -> None:
    """Add requests, as the values of their rows, to rollups; `gaps` are the times between tokens by request,
    `deployments` those of their replicas. Several gateways may do so.
    """
    for width_s in KEPT:
        groups: dict[tuple[datetime, str, str], list[Mapping[str, Any]]] = {}
        for row in rows:
            variant = rollup_variant(row["variant"], deployments.get(row["replica_id"]))
            key = (interval_start(row["created_at"], width_s), row["endpoint_id"] or "", variant)
            groups.setdefault(key, []).append(row)
        for (start, endpoint_id, variant), members in sorted(groups.items()):
            rollup = session.scalar(
                select(TrafficRollup)
                .where(
                    TrafficRollup.width_s == width_s,
                    TrafficRollup.start == start,
                    TrafficRollup.endpoint_id == endpoint_id,
                    TrafficRollup.variant == variant,
                )
                .with_for_update()
            )
            if rollup is None:
                rollup = _empty(width_s, start, endpoint_id, variant)
                session.add(rollup)
            _add(rollup, members, gaps)


def add_gauges(session: Session, values: Iterable[GaugeValue], *, at: datetime) -> None:
    """Add values of gauges to their rollups."""
    values = list(values)
    for width_s in KEPT:
        start = interval_start(at, width_s)
        query = select(GaugeRollup).where(GaugeRollup.width_s == width_s, GaugeRollup.start == start).with_for_update()
        known = {(row.subject, row.name): row for row in session.scalars(query)}
        for value in values:
            row = known.get((value.subject, value.name))
            if row is None:
                row = GaugeRollup(
                    width_s=width_s,
                    start=start,
                    subject=value.subject,
                    name=value.name,
                    readings=0,
                    sum=0.0,
                    maximum=value.value,
                )
                session.add(row)
                known[value.subject, value.name] = row
            row.readings += 1
            row.sum += value.value
            row.maximum = max(row.maximum, value.value)


def forget_rollups(session: Session, *, now: datetime) -> None:
    """Delete rollups that are older than their width is kept."""
    for table in (TrafficRollup, GaugeRollup):
        for width_s, age in KEPT.items():
            session.execute(delete(table).where(table.width_s == width_s, table.start < now - age))


def _empty(width_s: int, start: datetime, endpoint_id: str, variant: str) -> TrafficRollup:
    empty: dict[str, Any] = dict.fromkeys(SUMS, 0) | {name: {} for name in HISTOGRAMS}
    return TrafficRollup(width_s=width_s, start=start, endpoint_id=endpoint_id, variant=variant, **empty)


def _add(rollup: TrafficRollup, rows: Sequence[Mapping[str, Any]], gaps: Mapping[str, Mapping[int, int]]) -> None:
    for name in SUMS:
        if name in FAILURES:
            added = sum(row["requests"] for row in rows if row["status"] == name)
        else:
            added = sum(row[name] or 0 for row in rows)
        setattr(rollup, name, getattr(rollup, name) + added)
    first = [{bucket_of(row["ttft_ms"] / 1000): 1} for row in rows if row["ttft_ms"] is not None]
    total = [
        {bucket_of(row["total_ms"] / 1000): 1}
        for row in rows
        if row["total_ms"] is not None and row["status"] == "finished"
    ]
    queue = [{bucket_of(row["queue_ms"] / 1000): 1} for row in rows if row["queue_ms"] is not None]
    rollup.ttft = _merged(rollup.ttft, first)
    rollup.queue = _merged(rollup.queue, queue)
    rollup.total = _merged(rollup.total, total)
    rollup.itl = _merged(rollup.itl, [gaps.get(row["id"], {}) for row in rows])


def _merged(stored: Counts, counts: Iterable[Counts]) -> dict[int, int]:
    return dict(sorted(add_counts([stored, *counts]).items()))
