"""Settings of a config, each stated once: label, help, unit, bounds, choices, place on its form, option. Pure.

A field that is a `setting` is on the form of its config, an option of its command and a row of the reference, which
all read it here. Label, help, bounds and default are pydantic's own; the rest is a `Shown`, the field's
`json_schema_extra`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from backend.domain.validation import errors_by_field


@dataclass(frozen=True)
class FieldCondition:
    """A field is used only if the value of another one passes a test."""

    field: str
    holds: Callable[[Any], bool]


def when(field: str, *values: Any) -> FieldCondition:
    """Require one of these values."""
    return FieldCondition(field, lambda value: value in values)


def unless(field: str, *values: Any) -> FieldCondition:
    """Require any value but these."""
    return FieldCondition(field, lambda value: value not in values)


def above(field: str, bound: float) -> FieldCondition:
    """Require a number above a bound."""
    return FieldCondition(field, lambda value: value is not None and value > bound)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Presentation of a field. `group`: the heading that it stands under on the form, None for a field that the form
    leaves out or draws by hand. `used`: conditions that must all hold for the field to have an effect. `choices`:
    the label of each value. `empty`: what an empty field means. `scale`: what a form multiplies the number
    by, such as 100 for percent. `lines`: height of a text. `option`: its option, such as `--top-p`, `--gate/--no-gate`
    or `--hours --gpu-hours`; by default its name.
    """

    group: str | None = ""
    unit: str = ""
    used: tuple[FieldCondition, ...] = ()
    choices: Mapping[Any, str] = field(default_factory=dict)
    empty: str = ""
    step: float | None = None
    scale: float = 1
    lines: int = 1
    option: str = ""

    def __call__(self, schema: dict[str, Any]) -> None:
        """Write the unit into a JSON schema; pydantic's `json_schema_extra` hook."""
        if self.unit:
            schema["unit"] = self.unit


PLAIN = Shown()
OPTION_ONLY = Shown(group=None)
"""A field with an option, and none of a form's widgets made from the schema."""


def setting(default: Any, title: str, description: str = "", *, shown: Shown = PLAIN, **options: Any) -> Any:
    """Return the `Field` of a model with its label, its help, its bounds as pydantic names them, and how it is shown.

    `shown`: what fields have in common, such as their group; the names of `Shown` among the options replace parts of
    it.

    surge: int = setting(1, "Surge", "Replicas above N during a rollout.", ge=0, le=8)
    """
    changed = {name: options.pop(name) for name in tuple(options) if name in type(shown).__dataclass_fields__}
    extra = replace(shown, **changed)
    return Field(default, title=title, description=description or None, json_schema_extra=extra, **options)


@dataclass(frozen=True)
class FieldKind:
    """Type of a field: `base` is int, float, bool, str or another class; `values` of a closed set; `many`: a tuple."""

    base: type
    values: tuple[Any, ...] = ()
    many: bool = False
    optional: bool = False


@dataclass(frozen=True)
class FieldBounds:
    """FieldBounds of a number: inclusive `least` and `most`, exclusive `above` and `below`."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def describe(self) -> str:
        """Return the bounds as a reference writes them; empty without any."""
        signs = (("≥", self.least), (">", self.above), ("≤", self.most), ("<", self.below))
        return ", ".join(
            f"{sign} {int(bound) if bound == int(bound) else bound:,}" for sign, bound in signs if bound is not None
        )


def shown_of(info: FieldInfo) -> Shown:
    """Return how a field is shown."""
    return info.json_schema_extra if isinstance(info.json_schema_extra, Shown) else Shown()


def label_with_unit(info: FieldInfo) -> str:
    """Return a field's label with its unit; empty for a field that is not a setting."""
    unit = shown_of(info).unit
    return f"{info.title} ({unit})" if unit else info.title or ""


def default_of(info: FieldInfo) -> Any:
    """Return a field's default; None for a required one."""
    default = info.get_default(call_default_factory=True, validated_data={})
    return None if default is PydanticUndefined else default


def field_kind(info: FieldInfo) -> FieldKind:
    """Return the type of a field. Of a union it is that of the first member that is not None."""
    annotation: Any = info.annotation
    members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    inner = next(member for member in members if member is not NoneType)
    many = get_origin(inner) is tuple
    inner = get_args(inner)[0] if many else inner
    inner = get_args(inner)[0] if hasattr(inner, "__metadata__") else inner
    if get_origin(inner) is Literal:
        values = get_args(inner)
        return FieldKind(type(values[0]), values, many, NoneType in members)
    values = tuple(inner) if isinstance(inner, type) and issubclass(inner, Enum) else ()
    inner = get_origin(inner) or inner
    return FieldKind(inner if isinstance(inner, type) else str, values, many, NoneType in members)


def bounds_of(info: FieldInfo) -> FieldBounds:
    """Return the bounds of a number."""
    bounds: dict[str, float] = {}
    for mark in _marks(info):
        for name, kind, value in (("least", Ge, "ge"), ("most", Le, "le"), ("above", Gt, "gt"), ("below", Lt, "lt")):
            if isinstance(mark, kind):
                bounds[name] = getattr(mark, value)
    return FieldBounds(**bounds)


def fields_of(model: type[BaseModel], *, group: str | None = None) -> dict[str, FieldInfo]:
    """Return the fields with a title by name; with a `group`, only those that its form draws there."""
    titled = {name: info for name, info in model.model_fields.items() if info.title}
    return titled if group is None else {name: info for name, info in titled.items() if shown_of(info).group == group}


def is_used(model: type[BaseModel], name: str, values: Mapping[str, Any]) -> bool:
    """Return whether a field has an effect beside these values; those that are not among them have their default. A
    section's conditions may name fields of its config, whose values must be there.
    """

    def holds(condition: FieldCondition) -> bool:
        other = model.model_fields.get(condition.field)
        value = values[condition.field] if other is None or condition.field in values else default_of(other)
        return condition.holds(value) and (other is None or is_used(model, condition.field, values))

    return all(holds(condition) for condition in shown_of(model.model_fields[name]).used)


def field_problem(model: type[BaseModel], name: str, value: Any) -> str:
    """Return what is wrong with the value of one field, or "" if nothing is."""
    try:
        model.model_validate({name: value})
    except ValidationError as error:
        kind = field_kind(model.model_fields[name])
        for path, text in errors_by_field(error).items():
            if path.split(".")[0] == name:
                unread = [part for part in value if isinstance(part, str)] if kind.many and kind.base is int else []
                return f"“{unread[0]}” is not a whole number." if unread else text
    return ""


def read_list(info: FieldInfo, text: str) -> tuple[Any, ...]:
    """Read values separated by commas; what is not a number is left as a text, which the model refuses by name."""
    base = field_kind(info).base

    def read(part: str) -> Any:
        try:
            return base(part) if base in (int, float) else part
        except ValueError:
            return part

    return tuple(read(part.strip()) for part in text.split(",") if part.strip())


def write_list(values: Any) -> str:
    """Write values as `read_list` reads them."""
    return ", ".join(str(value) for value in values or ())


def option_of(name: str, info: FieldInfo) -> str:
    """Return the option of a field, such as `--top-p`; a switch that is on by default also has its opposite."""
    option = shown_of(info).option
    if option:
        return option
    written = "--" + name.replace("_", "-")
    return f"{written}/--no-{written[2:]}" if default_of(info) is True else written


def reference_rows(model: type[BaseModel]) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield (field, label, values, default, meaning) of each setting and of other fields that state their meaning."""
    for name, info in model.model_fields.items():
        if not info.title and not info.description:
            continue
        kind, default = field_kind(info), default_of(info)
        values = (
            " · ".join(str(value) for value in kind.values) or f"{_word(kind)} {bounds_of(info).describe()}".strip()
        )
        if default in (None, (), "", {}) or isinstance(default, BaseModel):
            written = "required" if info.is_required() else shown_of(info).empty.lower() or "none"
        else:
            written = write_list(default) if kind.many else str(default)
        yield name, label_with_unit(info), values, written, info.description or ""


def _word(kind: FieldKind) -> str:
    word = {int: "whole number", float: "number", bool: "on or off", str: "text", dict: "mapping"}.get(
        kind.base, "section"
    )
    return f"{word}s" if kind.many and kind.base is not bool else word


def _marks(info: FieldInfo) -> Iterator[Any]:
    """Yield the constraints of a field, and of the type inside `X | None` or `tuple[X, ...]`."""
    yield from info.metadata
    for part in get_args(info.annotation):
        if hasattr(part, "__metadata__"):
            for mark in part.__metadata__:
                yield from mark.metadata if isinstance(mark, FieldInfo) else (mark,)
