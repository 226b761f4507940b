"""Group averages against their closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from backend.domain.statistics.estimates import Estimate, mean_estimate, proportion_estimate
from backend.domain.statistics.groups import macro_average, micro_average
from backend.errors import InvalidInput

TASKS = [Estimate(0.5, 0.05, 0.4, 0.6, 100, ""), Estimate(0.8, 0.02, 0.76, 0.84, 400, "")]


def test_macro_average_counts_tasks_and_micro_average_items() -> None:
    macro, micro = macro_average(TASKS), micro_average(TASKS)
    assert (macro.value, macro.n) == (pytest.approx(0.65), 500)
    assert macro.stderr == pytest.approx(math.sqrt(0.05**2 + 0.02**2) / 2)
    assert micro.value == pytest.approx(0.74)
    assert micro.stderr == pytest.approx(math.sqrt((100 * 0.05) ** 2 + (400 * 0.02) ** 2) / 500)
    assert macro.method.startswith("macro average of 2 tasks")
    assert micro.method.startswith("micro average of 2 tasks")


def test_micro_average_is_stratified_and_so_no_wider_than_that_of_the_pooled_items() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(centre, 1.0, size=200) for centre in (0.0, 3.0)]
    pooled, micro = mean_estimate(np.concatenate(parts)), micro_average([mean_estimate(part) for part in parts])
    assert micro.value == pytest.approx(pooled.value)
    assert micro.stderr is not None
    assert pooled.stderr is not None
    assert micro.stderr < 0.6 * pooled.stderr


def test_the_interval_of_an_average_is_made_of_its_tasks_and_stays_within_their_bounds() -> None:
    wrong, right = proportion_estimate(0, 1), proportion_estimate(3, 3)
    for average in (macro_average, micro_average):
        assert average([wrong, wrong]).low == 0.0
        assert average([right, right]).high == 1.0
        alone = average([right])
        assert (alone.low, alone.high) == (pytest.approx(right.low), 1.0)
    assert wrong.high is not None
    assert macro_average([wrong, wrong]).high == pytest.approx(wrong.high / math.sqrt(2))
    macro = macro_average(TASKS)
    assert (macro.low, macro.high) == (
        pytest.approx(0.65 - math.hypot(0.1, 0.04) / 2),
        pytest.approx(0.65 + math.hypot(0.1, 0.04) / 2),
    )


def test_a_task_without_an_error_leaves_the_average_without_one() -> None:
    average = macro_average([*TASKS, Estimate(0.1, None, None, None, 1, "")])
    assert (average.stderr, average.low, average.n) == (None, None, 501)


def test_a_group_without_tasks_is_refused() -> None:
    with pytest.raises(InvalidInput):
        macro_average([])
