"""A run's curves as tests compare them: every point, in the order of steps."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import select

from backend.db.tables import MetricName
from backend.services.context import Context
from backend.services.metrics.points import read_points


class Curve(NamedTuple):
    """The points of one metric of one run, ascending in step."""

    steps: tuple[int, ...] = ()
    values: tuple[float, ...] = ()

    @property
    def total(self) -> int:
        """The number of points."""
        return len(self.steps)


def read_curve(ctx: Context, run_id: str, name: str, *, after: int = -1) -> Curve:
    """Return the stored points of a metric after a step."""
    with ctx.db.read() as session:
        name_id = session.scalar(select(MetricName.id).where(MetricName.name == name))
        if name_id is None:
            return Curve()
        points = read_points(session, run_id, name_id, after=after)
    return Curve(tuple(points.steps.tolist()), tuple(points.values.tolist()))
