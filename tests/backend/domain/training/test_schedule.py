"""The learning rate by step, against transformers' schedules and the papers' formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_inverse_sqrt_schedule,
    get_linear_schedule_with_warmup,
    get_wsd_schedule,
)

from backend.domain.training.config import RunConfig
from backend.domain.training.schedule import decay_steps_of, learning_rate_at

PEAK, STEPS, WARMUP = 0.01, 50, 8


def config(**values: Any) -> RunConfig:
    parts = {
        "dataset": "d",
        "architecture": "a",
        "tokenizer": "t",
        "learning_rate": PEAK,
        "max_steps": STEPS,
        "warmup_steps": WARMUP,
    }
    return RunConfig.model_validate({**parts, **values})


def reference(schedule: str, optimizer: torch.optim.Optimizer) -> Any:
    """The same schedule by transformers."""
    sizes = {"num_warmup_steps": WARMUP, "num_training_steps": STEPS}
    if schedule == "wsd":
        return get_wsd_schedule(optimizer, num_decay_steps=12, decay_type="1-sqrt", min_lr_ratio=0.1, **sizes)
    if schedule == "inverse_sqrt":
        return get_inverse_sqrt_schedule(optimizer, num_warmup_steps=WARMUP)
    if schedule == "constant":
        return get_constant_schedule_with_warmup(optimizer, num_warmup_steps=WARMUP)
    return {"cosine": get_cosine_schedule_with_warmup, "linear": get_linear_schedule_with_warmup}[schedule](
        optimizer, **sizes
    )


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "wsd", "inverse_sqrt"])
def test_after_warm_up_a_schedule_is_that_of_transformers(schedule: str) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    theirs = reference(schedule, optimizer)
    ours = config(
        schedule=schedule,
        decay_steps=12 if schedule == "wsd" else 0,
        min_learning_rate=0.001 if schedule == "wsd" else 0.0,
    )
    for step in range(1, STEPS + 1):
        if step > WARMUP:
            assert learning_rate_at(step, ours) == pytest.approx(
                optimizer.param_groups[0]["lr"], rel=1e-9, abs=1e-12
            ), step
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "wsd", "inverse_sqrt"])
def test_warm_up_rises_evenly_to_the_peak_and_nothing_exceeds_it(schedule: str) -> None:
    rates = [learning_rate_at(step, config(schedule=schedule, min_learning_rate=0.002)) for step in range(1, STEPS + 1)]
    assert rates[:WARMUP] == pytest.approx([PEAK * step / WARMUP for step in range(1, WARMUP + 1)])
    assert max(rates) == pytest.approx(PEAK)
    assert all(later <= earlier for earlier, later in zip(rates[WARMUP:], rates[WARMUP + 1 :], strict=False))
    assert min(rates[WARMUP:]) >= 0.002


def test_wsd_holds_the_peak_and_falls_with_the_root_over_a_fifth_of_the_run() -> None:
    requested = config(schedule="wsd")
    assert decay_steps_of(requested) == 10
    assert {learning_rate_at(step, requested) for step in range(WARMUP, STEPS - 10 + 2)} == {PEAK}
    assert learning_rate_at(STEPS, requested) == pytest.approx(PEAK * (1 - math.sqrt(0.9)))


def test_a_short_run_decays_as_far_as_warm_up_leaves_room() -> None:
    short = config(schedule="wsd", max_steps=3, warmup_steps=3)
    assert [learning_rate_at(step, short) for step in (1, 2, 3)] == pytest.approx([PEAK / 3, 2 * PEAK / 3, PEAK])


def test_inverse_sqrt_depends_on_no_last_step() -> None:
    short, long = config(schedule="inverse_sqrt"), config(schedule="inverse_sqrt", max_steps=10_000)
    assert [learning_rate_at(step, short) for step in (20, 40)] == [learning_rate_at(step, long) for step in (20, 40)]
    assert learning_rate_at(2501, config(schedule="inverse_sqrt", warmup_steps=0)) == pytest.approx(
        PEAK / math.sqrt(1.25)
    )
