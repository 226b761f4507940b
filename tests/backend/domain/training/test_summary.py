"""Summaries of runs: newest values, best val_loss and sparkline, without reading points."""

from __future__ import annotations

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from backend.domain.training.summary import SPARK_POINTS, RunSummary

BEFORE = {
    "last": {"train_loss": 1.5, "val_loss": 2.0},
    "spark": [[1, 3.0], [3, 2.5]],
    "spark_stride": 2,
    "best_val_loss": 2.0,
    "best_val_step": 3,
    "not_finite": {"grad_norm": 2},
    "result": {"final_step": 3, "checkpoint": "runs/r/checkpoints/step-000003", "cpu_s": 12.5},
    "imported": {
        "file": "log.csv",
        "format": "CSV",
        "tokens_per_step": None,
        "flops_per_step": None,
        "has_time": True,
        "notes": ["cut"],
    },
}
"""As the version before this class stored it."""


def test_a_summary_of_the_previous_version_is_read_completely() -> None:
    summary = RunSummary.model_validate(json.loads(json.dumps(BEFORE)))
    assert summary.imported is not None
    assert (summary.last, summary.spark, summary.imported.notes) == (BEFORE["last"], ((1, 3.0), (3, 2.5)), ("cut",))
    assert RunSummary.model_validate(summary.dump()) == summary


def test_nothing_stored_is_an_empty_summary() -> None:
    assert RunSummary.model_validate({}) == RunSummary()
    assert RunSummary().dump() == {}


def test_newest_values_best_val_loss_and_first_bad_step_are_kept() -> None:
    points = [
        (1, {"train_loss": 3.0, "val_loss": 2.5}),
        (2, {"train_loss": math.nan, "val_loss": 2.0}),
        (3, {"train_loss": None, "val_loss": 2.2}),
    ]
    summary = RunSummary().add(points)
    assert summary.last == {"train_loss": 3.0, "val_loss": 2.2}
    assert (summary.best_val_loss, summary.best_val_step) == (2.0, 2)
    assert summary.not_finite == {"train_loss": 2}


@given(st.lists(st.integers(1, 40), min_size=1, max_size=400))
def test_a_sparkline_stays_small_and_its_steps_ascend(gaps: list[int]) -> None:
    steps = [sum(gaps[: index + 1]) for index in range(len(gaps))]
    summary = RunSummary()
    for step in steps:  # as batches of one
        summary = RunSummary.model_validate(summary.dump()).add([(step, {"train_loss": float(step)})])
    assert 0 < len(summary.spark) <= SPARK_POINTS
    assert summary.spark[0][0] == steps[0]
    assert all(later[0] - earlier[0] >= 1 for earlier, later in zip(summary.spark, summary.spark[1:], strict=False))
    assert summary == RunSummary().add((step, {"train_loss": float(step)}) for step in steps)


def test_what_a_resumed_run_writes_again_is_dropped() -> None:
    summary = RunSummary.model_validate(BEFORE).drop_after(2)
    assert (summary.spark, summary.not_finite, summary.best_val_loss, summary.result) == (
        ((1, 3.0),),
        {"grad_norm": 2},
        None,
        {},
    )
    assert summary.last == BEFORE["last"]
    assert RunSummary.model_validate(BEFORE).drop_after(0).last == {}
    assert RunSummary.model_validate(BEFORE).drop_after(3).best_val_step == 3
