"""Forecast of a sweep: of all its runs, with the slots that it has."""

from __future__ import annotations

from typing import Any

import pytest

from backend.domain.training.sweep import SweepConfig, parse_sweep
from backend.services.context import Context
from backend.services.estimates.forecasts import SweepForecast, forecast, forecast_sweep, makespan
from backend.services.jobs.workers import beat
from tests.support.queries import count_selects
from tests.support.run_world import make_config, measure
from tests.support.scenario import Scenario


def sweep_of(**values: Any) -> SweepConfig:
    vary = {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
    return parse_sweep({"name": "s", "run": make_config().model_dump(mode="json"), "vary": vary, "runs": 12, **values})


def expect(ctx: Context, config: SweepConfig) -> SweepForecast:
    return forecast_sweep(ctx, config, base=forecast(ctx, config.run))


def work(ctx: Context, slots: int) -> None:
    beat(ctx, name="w", host="lab", pid=1, slots={"train": slots}, devices=[], gauges={})


def test_twelve_runs_take_twelve_times_as_long_or_less_by_the_slots(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    measure(ctx, make_config(), step_s=1.0)
    unserved = expect(ctx, sweep_of())
    assert (unserved.num_runs, unserved.at_once, unserved.seconds) == (12, 2, pytest.approx(600))
    work(ctx, slots=1)
    assert (expect(ctx, sweep_of()).at_once, expect(ctx, sweep_of()).seconds) == (1, pytest.approx(1200))
    work(ctx, slots=4)
    assert (expect(ctx, sweep_of()).at_once, expect(ctx, sweep_of()).seconds) == (2, pytest.approx(600))
    assert expect(ctx, sweep_of(parallel=5)).seconds == pytest.approx(300)
    one = forecast(ctx, sweep_of().run)
    assert expect(ctx, sweep_of()).disk_bytes == 12 * one.disk_bytes


def test_runs_of_different_length_are_forecast_each(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    work(ctx, slots=1)
    measure(ctx, make_config(), step_s=1.0)
    total = expect(ctx, sweep_of(vary={"max_steps": [100, 200, 400]}, method="grid"))
    assert (total.seconds, total.run_seconds) == (pytest.approx(700), (pytest.approx(100), pytest.approx(400)))
    assert not total.is_sampled


def test_the_largest_memory_counts_and_an_unmeasured_run_leaves_the_time_open(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    measure(ctx, make_config(), step_s=1.0)
    total = expect(ctx, sweep_of(vary={"micro_batch": [4, 64]}, method="grid"))
    large = forecast(ctx, make_config(micro_batch=64)).prediction.memory.num_bytes
    assert total.memory_bytes == large
    assert total.num_runs == 2


def test_a_run_that_can_not_be_launched_is_reported(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    total = expect(ctx, sweep_of(vary={"context": [32, 128]}, method="grid"))
    assert "longer than the architecture" in total.problem


def test_a_sweep_of_rates_needs_one_forecast(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    base = forecast(ctx, sweep_of().run)
    with count_selects(ctx.db.engine) as one:
        forecast(ctx, sweep_of().run, parts=base.parts)
    with count_selects(ctx.db.engine) as many:
        forecast_sweep(ctx, sweep_of(runs=200), base=base)
    assert many == one
    assert many["architectures"] == 0


def test_slots_are_filled_as_they_become_free() -> None:
    assert makespan([5, 1, 1, 1, 1], slots=2) == 5
    assert makespan([1, 1, 1], slots=1) == 3
    assert makespan([2, 2, 2], slots=2) == 4
