"""Long curves are read from packed blocks, never older than the points they copy; names survive a rollback."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select

from backend.db.tables import MetricBlock, MetricName, MetricPoint, Run
from backend.domain.jobs.events import MetricsEvent
from backend.services.context import Context
from backend.services.jobs.claims import Claim
from backend.services.metrics.curves import CurveCache, stream_csv
from backend.services.metrics.points import BLOCK_STEPS, add_points, last_values
from backend.services.training.views import RunView
from tests.support.curves import read_curve
from tests.support.run_world import claim, report
from tests.support.scenario import Scenario


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


LAST = 2 * BLOCK_STEPS + 100


@pytest.fixture
def long(any_ctx: Context) -> tuple[RunView, Claim]:
    """A run of two whole blocks and a hundred steps, whose val_loss is measured now and then."""
    run = Scenario(any_ctx).run(name="=long", max_steps=100_000)
    taken = claim(any_ctx, run)
    report(any_ctx, taken, *events(1, LAST))
    return run, taken


def events(first: int, last: int, *, shift: float = 0.0) -> list[dict[str, Any]]:
    """Metric events with a value that tells step and shift."""
    batch = []
    for step in range(first, last + 1):
        batch.append({"type": "metrics", "step": step, "time": float(step), "values": {"train_loss": step + shift}})
        if step % 1000 == 0:
            batch.append({"type": "metrics", "step": step, "time": float(step), "values": {"val_loss": -float(step)}})
    return batch


def count_blocks(ctx: Context) -> int:
    with ctx.db.read() as session:
        return session.scalar(select(func.count()).select_from(MetricBlock)) or 0


def test_points_come_back_complete_and_in_order(any_ctx: Context, long: tuple[RunView, Claim]) -> None:
    run, _ = long
    assert count_blocks(any_ctx) == 4  # two of each metric
    curve = read_curve(any_ctx, run.id, "train_loss")
    assert curve.steps == tuple(range(1, LAST + 1))
    assert curve.values == tuple(float(step) for step in range(1, LAST + 1))
    assert read_curve(any_ctx, run.id, "val_loss").steps == tuple(range(1000, LAST, 1000))
    assert read_curve(any_ctx, run.id, "train_loss", after=LAST - 2).steps == (LAST - 1, LAST)
    assert last_values(any_ctx, run.id) == {"train_loss": (LAST, float(LAST)), "val_loss": (8000, -8000.0)}


def test_packed_blocks_are_read_without_their_points(any_ctx: Context, long: tuple[RunView, Claim]) -> None:
    run, _ = long
    with any_ctx.db.write() as session:
        session.query(MetricPoint).filter(MetricPoint.step.between(2, BLOCK_STEPS - 1)).delete()
    assert len(read_curve(any_ctx, run.id, "train_loss").steps) == LAST


@pytest.mark.parametrize("step", [0, 100, BLOCK_STEPS - 1, BLOCK_STEPS, BLOCK_STEPS + 5, 2 * BLOCK_STEPS + 50])
def test_points_of_a_resumed_run_replace_packed_ones(any_ctx: Context, long: tuple[RunView, Claim], step: int) -> None:
    run, taken = long
    report(any_ctx, taken, {"type": "resumed", "step": step})
    assert read_curve(any_ctx, run.id, "train_loss").steps == tuple(range(1, step + 1))
    report(any_ctx, taken, *events(step + 1, LAST, shift=0.5))
    values = read_curve(any_ctx, run.id, "train_loss").values
    assert values == tuple(s + (0.5 if s > step else 0.0) for s in range(1, LAST + 1))
    assert count_blocks(any_ctx) == 4


def test_a_point_that_comes_late_is_not_hidden_by_its_block(any_ctx: Context, long: tuple[RunView, Claim]) -> None:
    run, taken = long
    report(any_ctx, taken, {"type": "metrics", "step": 7, "time": 7.0, "values": {"train_loss": 99.0}})
    assert read_curve(any_ctx, run.id, "train_loss").values[6] == 99.0


def test_a_browser_that_follows_gets_every_point_across_a_block(any_ctx: Context, long: tuple[RunView, Claim]) -> None:
    run, taken = long
    cache = CurveCache()
    cache.points_json(any_ctx, run.id, after={}, resets=None)
    report(any_ctx, taken, *events(LAST + 1, 3 * BLOCK_STEPS + 2))
    fresh = CurveCache().points_json(
        any_ctx, run.id, after={"train_loss": 3 * BLOCK_STEPS, "val_loss": 12000}, resets=0
    )
    assert f'"steps":[{3 * BLOCK_STEPS + 1},{3 * BLOCK_STEPS + 2}]' in fresh


def test_every_point_is_in_the_file_and_no_name_is_a_formula(any_ctx: Context, long: tuple[RunView, Claim]) -> None:
    run, _ = long
    lines = "".join(stream_csv(any_ctx, [run.id, "gone"])).splitlines()
    assert lines[0] == "run,name,metric,step,time,value"
    assert len(lines) == 1 + LAST + 8
    assert lines[1] == f"{run.id},'=long,train_loss,1,1.0,1.0"
    assert lines[-1] == f"{run.id},'=long,val_loss,8000,8000.0,-8000.0"
