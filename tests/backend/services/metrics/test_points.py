"""Metric points: their names survive a transaction that does not."""

from __future__ import annotations

from sqlalchemy import select

from backend.db.tables import MetricName, Run
from backend.domain.jobs.events import MetricsEvent
from backend.services.context import Context
from backend.services.metrics.points import add_points, last_values


def test_a_name_made_in_a_transaction_that_is_rolled_back_is_made_again(ctx: Context) -> None:
    with ctx.db.write() as session:
        run = Run(name="first", objective="pretrain", config={})
        session.add(run)
        session.flush()
        run_id = run.id
    rows = [MetricsEvent(step=1, time=0.0, values={"train_loss": 5.0})]
    with ctx.db.write() as session:
        add_points(session, ctx.db, run_id, rows)
        add_points(session, ctx.db, run_id, rows)
        session.rollback()
    with ctx.db.write() as session:
        add_points(
            session, ctx.db, run_id, [MetricsEvent(step=1, time=0.0, values={"grad_norm": 1.0, "mfu": float("nan")})]
        )
        add_points(session, ctx.db, run_id, rows)
    assert last_values(ctx, run_id) == {"grad_norm": (1, 1.0), "train_loss": (1, 5.0)}
    with ctx.db.read() as session:
        assert sorted(session.scalars(select(MetricName.name))) == ["grad_norm", "mfu", "train_loss"]
