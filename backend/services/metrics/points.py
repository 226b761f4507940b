"""Metric points: written in batches by the worker, read as curves that keep their extremes.

Every 4,096 steps a metric's points are copied into one packed row, a block, from which they are read. A million points
are read from single rows in seconds, and from packed rows in hundredths of one (docs/benchmarks/scale.md). The rows of
`metric_points` stay authoritative; blocks only speed up reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session
from tsdownsample import MinMaxLTTBDownsampler

from backend.db.engine import Database
from backend.db.tables import MetricBlock, MetricName, MetricPoint, Run
from backend.domain.jobs.events import MetricsEvent
from backend.services.context import Context

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


BLOCK_STEPS = 4096


@dataclass(frozen=True)
class Points:
    """Points of one metric of one run, ascending in step: `steps` int64, `values` and `times` (Unix seconds) float64,
    of one length.
    """

    steps: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    times: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.steps)

    def at(self, indices: npt.NDArray[np.int64]) -> Points:
        """Return the points at these indices."""
        return Points(self.steps[indices], self.values[indices], self.times[indices])


def run_metric_names(session: Session, run_id: str) -> list[tuple[int, str]]:
    """Return (id, name) of the metrics that a run has, by index look-ups, in the order of names' creation."""
    has_points = (
        select(MetricPoint.run_id).where(MetricPoint.run_id == run_id, MetricPoint.name_id == MetricName.id).exists()
    )
    query = select(MetricName.id, MetricName.name).where(has_points).order_by(MetricName.id)
    return [(row[0], row[1]) for row in session.execute(query)]


def pack_points(session: Session, run: Run) -> None:
    """Pack the blocks that a run has completed since the last call. Cheap enough to call after every batch."""
    full = run.last_step // BLOCK_STEPS
    first = run.packed_to // BLOCK_STEPS
    if full <= first:
        return
    for name_id, _ in run_metric_names(session, run.id):
        points = _read_rows(session, run.id, name_id, first=first * BLOCK_STEPS, end=full * BLOCK_STEPS)
        borders = np.searchsorted(points.steps, np.arange(first, full + 1) * BLOCK_STEPS)
        for number, (low, high) in enumerate(pairwise(borders), start=first):
            if low < high:
                part = (points.steps[low:high], points.values[low:high], points.times[low:high])
                session.add(
                    MetricBlock(
                        run_id=run.id,
                        name_id=name_id,
                        number=number,
                        points=b"".join(column.tobytes() for column in part),
                    )
                )
    run.packed_to = full * BLOCK_STEPS


def unpack_from(session: Session, run: Run, step: int) -> None:
    """Delete the blocks from a step on, whose points change; they are packed again as the run proceeds."""
    first = step // BLOCK_STEPS
    if first * BLOCK_STEPS < run.packed_to:
        session.execute(delete(MetricBlock).where(MetricBlock.run_id == run.id, MetricBlock.number >= first))
        run.packed_to = first * BLOCK_STEPS


def read_points(session: Session, run_id: str, name_id: int, *, after: int = -1) -> Points:
    """Return a metric's points after a step, packed ones first."""
    parts = []
    if after < 0:  # few points follow the last step held: not worth a block
        query = (
            select(MetricBlock.points)
            .where(MetricBlock.run_id == run_id, MetricBlock.name_id == name_id)
            .order_by(MetricBlock.number)
        )
        parts = [_unpack(block) for block in session.scalars(query)]
        after = int(parts[-1].steps[-1]) if parts else after
    parts.append(_read_rows(session, run_id, name_id, first=after + 1))
    return Points(
        *(np.concatenate([getattr(part, column) for part in parts]) for column in ("steps", "values", "times"))
    )


def _unpack(block: bytes) -> Points:
    count = len(block) // 24
    return Points(
        np.frombuffer(block, "<i8", count),
        np.frombuffer(block, "<f8", count, offset=8 * count),
        np.frombuffer(block, "<f8", count, offset=16 * count),
    )


def _read_rows(session: Session, run_id: str, name_id: int, *, first: int, end: int | None = None) -> Points:
    query = select(MetricPoint.step, MetricPoint.value, MetricPoint.time).where(
        MetricPoint.run_id == run_id, MetricPoint.name_id == name_id, MetricPoint.step >= first
    )
    if end is not None:
        query = query.where(MetricPoint.step < end)
    rows = session.execute(query.order_by(MetricPoint.step)).all()
    steps, values, times = zip(*rows, strict=True) if rows else ((), (), ())
    return Points(np.array(steps, np.int64), np.array(values, np.float64), np.array(times, np.float64))
