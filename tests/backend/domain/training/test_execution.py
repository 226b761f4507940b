"""A micro-batch's passes, by hand; a setting that a sharding can't train is refused with value and cure."""

from __future__ import annotations

from typing import Any

import pytest

from backend.domain.training.config import RunConfig
from backend.domain.training.execution import check_sharding, compiles, sequences_at_once
from backend.errors import InvalidInput
from tests.support.training_rooms import TINY


def pretraining(**values: object) -> RunConfig:
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
    run = pretraining(architecture=shape, micro_batch=micro_batch, grad_accum_steps=accumulated, context=context)
    assert sequences_at_once(run, device="cpu", is_full=True, has_experts=False) == expected


def test_passes_are_not_split_without_gain_or_if_the_loss_would_change() -> None:
    run = pretraining(micro_batch=64, context=64)
    assert sequences_at_once(run, device="cpu", is_full=True, has_experts=False) == 16
    assert sequences_at_once(run, device="gpu", is_full=True, has_experts=False) == 64
    assert sequences_at_once(run, device="cpu", is_full=False, has_experts=False) == 64
    assert sequences_at_once(run, device="cpu", is_full=True, has_experts=True) == 64
    shared = pretraining(micro_batch=64, context=64, devices={"count": 2})
    assert sequences_at_once(shared, device="cpu", is_full=True, has_experts=False) == 64


def on_two_devices(sharding: str, **values: Any) -> RunConfig:
    return RunConfig.model_validate(
        {"objective": "sft", "base": "b", "dataset": "d", "devices": {"count": 2, "sharding": sharding}, **values}
    )


def test_zero_without_its_library_is_refused_with_the_command_that_installs_it() -> None:
    with pytest.raises(InvalidInput) as caught:
        check_sharding(on_two_devices("zero3"), has_deepspeed=False)
    assert caught.value.field == "devices.sharding"
    assert "devices.sharding zero3 needs the library deepspeed" in caught.value.message
    assert "pip install 'roundhouse[deepspeed]'" in str(caught.value.remedy)
    check_sharding(on_two_devices("zero3"), has_deepspeed=True)
    check_sharding(on_two_devices("fsdp"), has_deepspeed=False)
    check_sharding(on_two_devices("zero3", devices={"count": 1, "sharding": "zero3"}), has_deepspeed=False)


@pytest.mark.parametrize(
    ("sharding", "field", "value", "cure"),
    [
        ("fsdp", "optimizer", "muon", "adamw"),
        ("zero2", "optimizer", "adafactor", "adamw"),
        ("zero3", "ema_decay", 0.9, 0.0),
        ("zero2", "precision", "fp16", "bf16"),
        ("zero3", "method", "qlora", "lora"),
        ("zero3", "compile", "on", "off"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused_with_its_value_and_the_cure_is_accepted(
    sharding: str, field: str, value: object, cure: object
) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_sharding(on_two_devices(sharding, **{field: value}), has_deepspeed=True)
    assert caught.value.field == field
    assert str(value) in caught.value.message
    assert (f"{cure:g}" if isinstance(cure, float) else str(cure)) in str(caught.value.remedy)
    check_sharding(on_two_devices(sharding, **{field: cure}), has_deepspeed=True)
    check_sharding(on_two_devices("ddp", **{field: value}), has_deepspeed=False)


def test_a_long_run_by_zero_is_not_compiled_of_itself() -> None:
    long: dict[str, Any] = {"objective": "pretrain", "architecture": "a", "tokenizer": "t", "base": None}
    long |= {"max_steps": 1_000_000}
    assert compiles(on_two_devices("ddp", **long), parameters=10**9, device="gpu")
    assert not compiles(on_two_devices("zero2", **long), parameters=10**9, device="gpu")
