"""How much of a micro-batch passes at once, by hand."""

from __future__ import annotations

import pytest

from backend.domain.training.config import RunConfig
from backend.domain.training.execution import sequences_at_once
from tests.support.training_rooms import TINY


def config(**values: object) -> RunConfig:
    """A pretraining run's config."""
    return RunConfig.model_validate({"dataset": "d", "architecture": TINY, "tokenizer": "t", **values})


@pytest.mark.parametrize(
    ("micro_batch", "accumulated", "context", "expected"),
    [
        (16, 1, 256, 4),
        (16, 1, 64, 16),
        (12, 1, 64, 12),
        (6, 1, 256, 3),  # 3 + 3, not 4 + 2
        (7, 2, 256, 4),  # 4 + 4 + 4 + 2
        (5, 1, 512, 2),  # 2 + 2 + 1
        (4, 8, 2048, 1),
        (1, 1, 8192, 1),
    ],
)
def test_a_cpu_passes_about_a_thousand_tokens(micro_batch: int, accumulated: int, context: int, expected: int) -> None:
    shape = TINY.model_copy(update={"context": 8192})
    run = config(architecture=shape, micro_batch=micro_batch, grad_accum_steps=accumulated, context=context)
    assert sequences_at_once(run, device="cpu", is_full=True, has_experts=False) == expected


def test_passes_are_not_split_without_gain_or_if_the_loss_would_change() -> None:
    run = config(micro_batch=64, context=64)
    assert sequences_at_once(run, device="cpu", is_full=True, has_experts=False) == 16
    assert sequences_at_once(run, device="gpu", is_full=True, has_experts=False) == 64
    assert sequences_at_once(run, device="cpu", is_full=False, has_experts=False) == 64
    assert sequences_at_once(run, device="cpu", is_full=True, has_experts=True) == 64
    shared = config(micro_batch=64, context=64, devices={"count": 2})
    assert sequences_at_once(shared, device="cpu", is_full=True, has_experts=False) == 64
