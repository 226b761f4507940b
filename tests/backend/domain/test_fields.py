"""Settings: what is said once at a field is read back for forms, options and the reference."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from backend.domain.fields import (
    OPTION_ONLY,
    FieldBounds,
    FieldKind,
    bounds_of,
    field_kind,
    field_problem,
    fields_of,
    is_used,
    label_with_unit,
    option_of,
    read_list,
    reference_rows,
    setting,
    when,
    write_list,
)
from backend.domain.serving.deployment import RoutingPolicy

Count = Annotated[int, Field(ge=1, le=9)]


class Oven(BaseModel):
    """A config of every kind of field."""

    heat: float = setting(180.0, "Heat", "Degrees inside.", gt=0, lt=300, unit="°C")
    racks: int = setting(2, "Racks", "Racks in use.", ge=1, le=4)
    mode: Literal["grill", "bake"] = setting("bake", "Mode", choices={"grill": "Grill"})
    flame: int = setting(3, "Flame", ge=1, used=(when("mode", "grill"),))
    timer: Count | None = setting(None, "Timer", empty="No limit")
    light: bool = setting(True, "Light")
    fan: bool = setting(False, "Fan", shown=OPTION_ONLY)
    minutes: tuple[int, ...] = setting((5, 10), "Minutes")
    policy: RoutingPolicy = setting(RoutingPolicy.ROUND_ROBIN, "RoutingPolicy", option="--order")
    dish: str = Field(title="Dish", max_length=20)
    serial: str = Field(default="", description="Not shown.")


INFO = Oven.model_fields


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("heat", FieldKind(float)),
        ("mode", FieldKind(str, ("grill", "bake"))),
        ("timer", FieldKind(int, optional=True)),
        ("light", FieldKind(bool)),
        ("minutes", FieldKind(int, many=True)),
        ("policy", FieldKind(RoutingPolicy, tuple(RoutingPolicy))),
        ("dish", FieldKind(str)),
    ],
)
def test_the_type_of_a_field_is_read_from_its_annotation(name: str, kind: FieldKind) -> None:
    assert field_kind(INFO[name]) == kind


def test_bounds_are_those_of_the_field_or_of_the_type_inside() -> None:
    assert bounds_of(INFO["heat"]) == FieldBounds(above=0, below=300)
    assert bounds_of(INFO["racks"]) == FieldBounds(least=1, most=4)
    assert bounds_of(INFO["timer"]) == FieldBounds(least=1, most=9)
    assert bounds_of(INFO["light"]) == FieldBounds()


def test_only_settings_are_shown_and_a_label_has_its_unit() -> None:
    assert "serial" not in fields_of(Oven)
    assert "fan" in fields_of(Oven)
    assert "fan" not in fields_of(Oven, group="")
    assert label_with_unit(INFO["heat"]) == "Heat (°C)"


def test_a_field_is_used_only_where_its_condition_holds() -> None:
    assert not is_used(Oven, "flame", {})
    assert is_used(Oven, "flame", {"mode": "grill"})
    assert is_used(Oven, "heat", {})


@pytest.mark.parametrize(
    ("name", "option"),
    [("racks", "--racks"), ("light", "--light/--no-light"), ("fan", "--fan"), ("policy", "--order")],
)
def test_an_option_has_the_name_of_its_field_or_the_one_that_is_given(name: str, option: str) -> None:
    assert option_of(name, INFO[name]) == option


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("racks", 2, ""),
        ("racks", 9, "at most 4"),
        ("heat", 0, "more than 0"),
        ("minutes", (5, "1; 8"), "“1; 8” is not a whole number."),
        ("dish", "x" * 21, "at most 20 characters"),
    ],
)
def test_the_problem_of_one_field_is_said_without_those_of_others(name: str, value: Any, problem: str) -> None:
    said = field_problem(Oven, name, value)
    assert problem in said
    assert bool(said) == bool(problem)


def test_a_list_is_written_as_it_is_read() -> None:
    assert read_list(INFO["minutes"], " 5, 10 ,") == (5, 10)
    assert read_list(INFO["minutes"], write_list((5, 10))) == (5, 10)
    assert read_list(INFO["minutes"], "soon") == ("soon",)


def test_the_reference_has_a_row_for_each_setting() -> None:
    rows = {name: rest for name, *rest in reference_rows(Oven)}
    assert rows["heat"] == ["Heat (°C)", "number > 0, < 300", "180.0", "Degrees inside."]
    assert rows["timer"] == ["Timer", "whole number ≥ 1, ≤ 9", "no limit", ""]
    assert rows["minutes"] == ["Minutes", "whole numbers", "5, 10", ""]
    assert rows["dish"][2] == "required"
    assert rows["serial"][0] == "", "no form and no command shows it"
