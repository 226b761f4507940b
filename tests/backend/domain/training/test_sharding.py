"""What a sharding can't train is refused with the value and a cure that the same check accepts."""

from __future__ import annotations

from typing import Any

import pytest

from backend.domain.training.config import RunConfig
from backend.domain.training.execution import compiles
from backend.domain.training.sharding import check_sharding
from backend.errors import InvalidInput


def config(sharding: str, **values: Any) -> RunConfig:
    return RunConfig.model_validate(
        {"objective": "sft", "base": "b", "dataset": "d", "devices": {"count": 2, "sharding": sharding}, **values}
    )


def test_zero_without_its_library_is_refused_with_the_command_that_installs_it() -> None:
    with pytest.raises(InvalidInput) as caught:
        check_sharding(config("zero3"), has_deepspeed=False)
    assert caught.value.field == "devices.sharding"
    assert "devices.sharding zero3 needs the library deepspeed" in caught.value.message
    assert "pip install 'roundhouse[deepspeed]'" in str(caught.value.remedy)
    check_sharding(config("zero3"), has_deepspeed=True)
    check_sharding(config("fsdp"), has_deepspeed=False)
    check_sharding(config("zero3", devices={"count": 1, "sharding": "zero3"}), has_deepspeed=False)


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
        check_sharding(config(sharding, **{field: value}), has_deepspeed=True)
    assert caught.value.field == field
    assert str(value) in caught.value.message
    assert (f"{cure:g}" if isinstance(cure, float) else str(cure)) in str(caught.value.remedy)
    check_sharding(config(sharding, **{field: cure}), has_deepspeed=True)
    check_sharding(config("ddp", **{field: value}), has_deepspeed=False)


def test_a_long_run_by_zero_is_not_compiled_of_itself() -> None:
    long: dict[str, Any] = {"objective": "pretrain", "architecture": "a", "tokenizer": "t", "base": None}
    long |= {"max_steps": 1_000_000}
    assert compiles(config("ddp", **long), parameters=10**9, device="gpu")
    assert not compiles(config("zero2", **long), parameters=10**9, device="gpu")
