"""Metric points: written in batches by the worker, read as curves that keep their extremes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session
from tsdownsample import MinMaxLTTBDownsampler

from backend.db.engine import Database
from backend.db.tables import MetricName, MetricPoint, Run
from backend.domain.jobs.events import MetricsEvent
from backend.services.context import Context
from backend.services.metrics.blocks import run_metric_names, unpack_from

MAX_POINTS = 1500


def add_points(session: Session, database: Database, run_id: str, events: Sequence[MetricsEvent]) -> None:
    """Insert points inside the caller's transaction. Repeating a step replaces it; non-finite values are left out."""
    ids = _name_ids(session, database, {name for event in events for name in event.values})
    points = [
        {
            "run_id": run_id,
            "name_id": ids[name],
            "step": event.step,
            "value": value,
            "time": event.time,
        }
        for event in events
        for name, value in event.values.items()
        if value is not None and np.isfinite(value)
    ]
    if not points:
        return
    into = sqlite.insert if database.is_sqlite else postgresql.insert
    insert = into(MetricPoint.__table__)  # type: ignore[arg-type]
    statement = insert.on_conflict_do_update(
        index_elements=["run_id", "name_id", "step"],
        set_={"value": insert.excluded.value, "time": insert.excluded.time},
    )
    # one compiled statement for all rows: 20 times as fast as one with many VALUES
    session.connection().execute(statement, points)


def drop_points_after(session: Session, run: Run, step: int) -> None:
    """Delete the points after a step, which a resumed run rewrites."""
    unpack_from(session, run, step + 1)
    session.execute(delete(MetricPoint).where(MetricPoint.run_id == run.id, MetricPoint.step > step))


def _name_ids(session: Session, database: Database, names: set[str]) -> dict[str, int]:
    """Return the ids of metric names, inserting new ones. Not cached: this transaction may be rolled back."""
    query = select(MetricName.name, MetricName.id).where(MetricName.name.in_(names))
    ids = dict(session.execute(query).all())
    if len(ids) < len(names):
        insert = (sqlite.insert if database.is_sqlite else postgresql.insert)(MetricName)
        session.execute(insert.values([{"name": name} for name in sorted(names - set(ids))]).on_conflict_do_nothing())
        ids = dict(session.execute(query).all())
    return ids


def downsample(steps: np.ndarray, values: np.ndarray, max_points: int) -> np.ndarray:
    """Return the indices to keep, first and last point included."""
    if len(steps) <= max_points:
        return np.arange(len(steps))
    indices = MinMaxLTTBDownsampler().downsample(steps, values, n_out=max_points)
    return np.asarray(indices, dtype=np.int64)


def last_values(ctx: Context, run_id: str) -> dict[str, tuple[int, float]]:
    """Return each metric's newest (step, value)."""
    latest: dict[str, tuple[int, float]] = {}
    with ctx.db.read() as session:
        for name_id, name in run_metric_names(session, run_id):
            query = select(MetricPoint.step, MetricPoint.value).where(
                MetricPoint.run_id == run_id, MetricPoint.name_id == name_id
            )
            step, value = session.execute(query.order_by(MetricPoint.step.desc()).limit(1)).one()
            latest[name] = (step, value)
    return latest
