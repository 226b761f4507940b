"""Errors name a value as it was typed."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, Field, ValidationError

from backend.domain.training.config import parse_run_config
from backend.domain.training.config_sections import GrpoConfig
from backend.domain.validation import errors_by_field, read_values, validation_message
from backend.errors import InvalidInput


class Oven(BaseModel):
    rate: float = Field(default=1.0, lt=10)
    trays: int = Field(default=1, ge=1)
    fan: bool = True


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rate": 50.0}, "rate: must be less than 10 (got 50)"),
        ({"rate": 50.5}, "rate: must be less than 10 (got 50.5)"),
        ({"rate": 1e20}, "rate: must be less than 10 (got 1e+20)"),
        ({"trays": None}, "trays: must be a whole number (got nothing)"),
        ({"trays": "two"}, "(got 'two')"),
        ({"fan": 7.0}, "(got 7)"),
        ({"trays": ["two", "three"]}, "(got two, three)"),
        ({"rate": []}, "(got nothing)"),
    ],
)
def test_a_whole_number_has_no_decimal_point(values: dict[str, object], said: str) -> None:
    """50 was named as 50.0, and an empty field as None."""
    with pytest.raises(ValidationError) as caught:
        Oven.model_validate(values)
    assert said in validation_message(caught.value)
    assert said.partition(": ")[2].capitalize() in errors_by_field(caught.value)[next(iter(values))].capitalize()


def test_entries_of_a_list_count_from_one() -> None:
    with pytest.raises(InvalidInput) as refusal:
        read_values(GrpoConfig, {"rewards": [{"kind": "exact"}, {"kind": "length"}, {"kind": "exact", "target": -1}]})
    assert "rewards, entry 2: a length reward needs a target, in tokens" in refusal.value.message
    assert "rewards, entry 3, target: must be at least 0" in refusal.value.message


@pytest.mark.parametrize(
    ("architecture", "fault", "field"),
    [
        ("{layers: 3}", "architecture: an architecture has no field layers: perhaps num_layers", "architecture"),
        ("{num_layers: a, width: 16}", "architecture.num_layers: must be a whole", "architecture.num_layers"),
        ("5", "architecture: must be text (got 5)", "architecture"),
    ],
    ids=["unknown key", "wrong value", "no config"],
)
def test_a_wrong_inline_architecture_is_named_by_its_own_fields(architecture: str, fault: str, field: str) -> None:
    """It read "architecture.str: must be text; architecture.function-after[_check(), ArchitectureConfig]: ..."."""
    with pytest.raises(InvalidInput) as caught:
        parse_run_config(f"objective: pretrain\ndataset: x\ntokenizer: t\narchitecture: {architecture}\n")
    assert caught.value.message.startswith(f"The recipe can't run: {fault}")
    assert caught.value.field == field
