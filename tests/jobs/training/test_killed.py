"""Runs that are killed repeatedly report the same numbers as an undisturbed one, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.training_rooms import Rooms
from tests.support.workers.killed_runs import KilledRun, differences

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "pretrain": ("pretrain", {"micro_batch": 8, "context": 64, "optimizer": "muon", "ema_decay": 0.9, "dropout": 0.1}),
    "packed sft": ("sft", {"method": "lora", "lora": {"rank": 4, "dropout": 0.2}, "learning_rate": 1e-2}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_killed_twice_ends_with_the_weights_of_an_undisturbed_one(case: str, tmp_path: Path) -> None:
    objective, values = CASES[case]
    rooms = Rooms(tmp_path)
    values = {"max_steps": 16, "checkpoint_every": 3, "eval_every": 4, **values}
    quiet = KilledRun(rooms.training(objective, run="quiet", job="quiet", **values))
    assert quiet.attempt()
    killed = KilledRun(rooms.training(objective, run="killed", job="killed", **values))
    assert not killed.attempt(kill_at=5)
    assert not killed.attempt(kill_at=11)
    assert killed.attempt()
    expected, steps = quiet.reported(1), set()
    for attempt in (1, 2, 3):
        reported = killed.reported(attempt)
        assert differences(reported, expected) == []
        steps |= set(reported["train_loss"])
    assert min(killed.reported(3)["train_loss"]) > 3, "it resumed and did not start over"
    assert steps == set(range(1, 17))
    assert killed.final_weights() == quiet.final_weights()
