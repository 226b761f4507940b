"""Figures of a whole run, for its page, its chart and its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.db.tables import Measurement
from backend.domain.wording import format_bytes
from backend.services.context import Context
from backend.services.metrics.points import read_points, run_metric_names


@dataclass(frozen=True)
class RunFigures:
    """Speed and memory over a whole run; None where nothing was measured.

    `tokens_per_s`: median over the steps. `peak_memory_bytes`: high-water mark of one process, which lies above the
    once-a-second `memory_bytes` of the curve, since a step's peak is short.
    """

    tokens_per_s: float | None = None
    peak_memory_bytes: int | None = None

    @property
    def speed(self) -> str:
        """The median speed: `median 1,204`."""
        return "" if self.tokens_per_s is None else f"median {self.tokens_per_s:,.0f}"

    @property
    def memory(self) -> str:
        """The peak memory: `peak 2.1 GB`."""
        return "" if self.peak_memory_bytes is None else f"peak {format_bytes(self.peak_memory_bytes)}"

    def by_metric(self) -> dict[str, str]:
        """Return the figures that there are, by the metric whose curve they sum up."""
        return {name: text for name, text in (("tok_per_sec", self.speed), ("memory_bytes", self.memory)) if text}


def figures_of_runs(ctx: Context, run_ids: Sequence[str]) -> Mapping[str, RunFigures]:
    """Return the figures of runs by id."""
    with ctx.db.read() as session:
        return {run_id: _figures(session, run_id) for run_id in run_ids}


def last_step_of(ctx: Context, run_id: str, metric: str) -> int | None:
    """Return the step of a metric's newest value; None if it has none."""
    with ctx.db.read() as session:
        for name_id, name in run_metric_names(session, run_id):
            if name == metric:
                return int(read_points(session, run_id, name_id).steps[-1])
    return None


def _figures(session: Session, run_id: str) -> RunFigures:
    points = {
        name: read_points(session, run_id, name_id).values
        for name_id, name in run_metric_names(session, run_id)
        if name in ("tok_per_sec", "memory_bytes")
    }
    speeds, memory = points.get("tok_per_sec"), points.get("memory_bytes")
    measured = session.scalar(select(func.max(Measurement.measured_bytes)).where(Measurement.run_id == run_id))
    peaks = [
        int(peak)
        for peak in (measured, memory.max() if memory is not None and len(memory) else None)
        if peak is not None
    ]
    return RunFigures(
        tokens_per_s=float(np.median(speeds)) if speeds is not None and len(speeds) else None,
        peak_memory_bytes=max(peaks, default=None),
    )
