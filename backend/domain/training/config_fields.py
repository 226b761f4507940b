"""Fields of a run's config by their path, such as `lora.rank`: values and traits. The only code that knows which
fields matter.

Everything is read from the schema: `Traits` stand at each field (`traits.py`). Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from backend.domain import fields
from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.fields import FieldCondition
from backend.domain.json_values import FieldValues
from backend.domain.names import nearest_name
from backend.domain.training.config import RunConfig
from backend.domain.training.traits import COST, Effect, FieldGroup, Traits
from backend.domain.validation import validation_message
from backend.domain.yaml_text import parse_yaml
from backend.errors import InvalidInput

Value = float | int | str | bool
MAX_CHARACTERS = 500
"""All changes in an address together."""


def _sections() -> dict[str, type[BaseModel]]:
    kinds = {name: field.annotation for name, field in RunConfig.model_fields.items()}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, BaseModel)}


SECTIONS = _sections()
"""Fields of a run that are configs themselves, by name."""


@cache
def list_paths() -> tuple[str, ...]:
    """Return the path of every field of a run, in the schema's order; those of an inline architecture are left out."""
    return tuple(
        path
        for name in RunConfig.model_fields
        for path in ([f"{name}.{inner}" for inner in SECTIONS[name].model_fields] if name in SECTIONS else [name])
    )


def traits_of(path: str) -> Traits:
    """Return a field's traits; a field of an inline architecture has those of `architecture`.

    Raises InvalidInput for an unknown path, TypeError for a field whose schema states no traits.
    """
    section, _, name = path.partition(".")
    traits = field_at(section if name and section not in SECTIONS else path).json_schema_extra
    if not isinstance(traits, Traits):
        raise TypeError(f"The field {path} states no traits: give it json_schema_extra=Traits(...).")
    return traits


def field_label(path: str) -> str:
    """Return a field's label on pages; an unknown path is returned unchanged."""
    return str(field_at(path).title) if path in list_paths() else path


def unmet_condition(path: str, value_of: Callable[[str], Any]) -> FieldCondition | None:
    """Return the first unmet condition of a field without effect, None for a field in use.

    A condition on a field that is itself unused does not hold: `devices.rendezvous` needs several `devices.nodes`,
    which need devices.
    """
    for condition in traits_of(path).used:
        above = unmet_condition(condition.field, value_of)
        if above is not None or not condition.holds(value_of(condition.field)):
            return above or condition
    return None


def paths_affecting(*effects: Effect) -> tuple[str, ...]:
    """Return the fields that affect any of these."""
    return tuple(path for path in list_paths() if traits_of(path).affects & set(effects))


def values_affecting(config: RunConfig, *effects: Effect) -> dict[str, object]:
    """Return the values, as JSON has them, of used fields that affect any of these. Names of rows are among them."""
    flat = _by_path(config)
    return {path: flat[path] for path in paths_affecting(*effects) if _is_used(config, path)}


def measured_values(config: RunConfig) -> dict[str, object]:
    """Return the values that determine a run's peak memory and step time, except referenced rows, whose ids the caller
    adds. Two runs with equal values and rows have the same memory and time per micro-batch.
    """
    values: dict[str, object] = {}
    for path, value in values_affecting(config, *COST).items():
        traits = traits_of(path)
        if not traits.names_row:
            values[path] = traits.measured_as(value) if traits.measured_as else value
    return values


def distinguishing_values(config: RunConfig) -> dict[str, object]:
    """Return the values that distinguish experiments, except referenced rows: without seed and hardware settings."""
    values = values_affecting(config, Effect.RESULT)
    return {
        path: value for path, value in values.items() if not (traits_of(path).is_replicate or traits_of(path).names_row)
    }


def form_groups(value_of: Callable[[str], Any]) -> dict[FieldGroup, list[str]]:
    """Return the fields in use by their place on the launch form."""
    groups: dict[FieldGroup, list[str]] = {group: [] for group in FieldGroup}
    for path in list_paths():
        group = traits_of(path).group
        if group is not None and unmet_condition(path, value_of) is None:
            groups[group].append(path)
    return groups


def idle_fields(config: RunConfig) -> Iterator[tuple[str, FieldCondition]]:
    """Yield the fields that are set without effect in this run, each with its unmet condition."""
    for path in list_paths():
        unmet = unmet_condition(path, lambda other: value_at(config, other))
        if unmet is not None and value_at(config, path) != default_at(path):
            yield path, unmet


def flatten(config: RunConfig) -> FieldValues:
    """Return every field of a config by path, with a dot for fields of sections and of an inline architecture."""
    flat: FieldValues = {}
    for name, value in config.model_dump(mode="json", exclude_none=False).items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": part for key, part in value.items()}
        else:
            flat[name] = value
    return flat


def value_at(config: RunConfig, path: str) -> Any:
    """Return the value of the field at a path."""
    section, _, name = path.partition(".")
    value = getattr(config, section)
    return getattr(value, name) if name else value


def default_at(path: str) -> Any:
    """Return the default of a field."""
    return field_at(path).default


def explicit_paths(config: RunConfig) -> frozenset[str]:
    """Return the fields given explicitly, for example in a YAML file."""
    paths = set(config.model_fields_set - SECTIONS.keys())
    for name in config.model_fields_set & SECTIONS.keys():
        paths |= {f"{name}.{inner}" for inner in getattr(config, name).model_fields_set}
    return frozenset(paths)


def with_values(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """Return a config with the fields at these paths set. Raises InvalidInput naming field, value and bound."""
    data = config.model_dump(mode="json")
    for path, value in values.items():
        section, _, field = path.partition(".")
        if not field:
            data[section] = value
        elif isinstance(data.get(section), dict):
            data[section] = {**data[section], field: value}
        else:
            raise InvalidInput(
                f"This run has no {path}.", remedy="Give the architecture itself instead of its name.", field=path
            )
    _fit_cadence(data, given=values)
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise InvalidInput(f"{validation_message(error, RunConfig)}.", field=next(iter(values), None)) from error


def _fit_cadence(data: FieldValues, *, given: Mapping[str, Any]) -> None:
    """Bring the steps between evaluations and checkpoints that were not given within a run that became shorter."""
    steps = data["max_steps"]
    for path in ("eval_every", "checkpoint_every"):
        if "max_steps" in given and path not in given and isinstance(steps, int | float) and data[path] > steps >= 1:
            data[path] = int(steps)


def write_changes(changes: Sequence[tuple[str, Value]]) -> str:
    """Return changes as in an address, `learning_rate:0.001,preference.beta:0.2`, which `with_changes` reads."""
    return ",".join(f"{field}:{str(value).lower() if isinstance(value, bool) else value}" for field, value in changes)


def with_changes(config: RunConfig, text: str) -> RunConfig:
    """Return a config with these fields' values. Raises InvalidInput for an unknown field or a value it can't have."""
    if not text.strip():
        return config
    values: dict[str, object] = {}
    for part in text[:MAX_CHARACTERS].split(","):
        field, colon, value = part.partition(":")
        field = field.strip()
        if not colon or field not in flatten(config):
            raise InvalidInput(
                f"“{part[:80]}” names no field of a run.",
                remedy="Write `field:value`, such as learning_rate:0.001.",
                field="set",
            )
        try:
            values[field] = parse_yaml(value, what="The value")
        except InvalidInput as error:
            raise InvalidInput(f"“{value[:80]}” is not a value.", field=field) from error
    return with_values(config, values)


def field_at(path: str) -> FieldInfo:
    """Return the schema of the field at a path. Raises InvalidInput, naming the nearest field, for an unknown one."""
    section, _, name = path.partition(".")
    if not name and section not in SECTIONS and section in RunConfig.model_fields:
        return RunConfig.model_fields[section]
    model = ArchitectureConfig if section == "architecture" else SECTIONS.get(section)
    if name and model is not None and name in model.model_fields:
        return model.model_fields[name]
    near = nearest_name(path, list_paths())
    raise InvalidInput(
        f"A run has no field {path!r}.",
        remedy=f"Did you mean {near}?" if near else "Write a field of a section with a dot: lora.rank.",
        field=path,
    )


def kind_of(path: str) -> type | tuple[Any, ...]:
    """Return int, float, bool or str for the field at a path, or its allowed values."""
    kind = fields.field_kind(field_at(path))
    return kind.values or kind.base


def _by_path(config: RunConfig) -> dict[str, object]:
    """Return every field by path; an inline architecture is one value."""
    data = config.model_dump(mode="json")
    return {
        path: data[section][name] if name else data[section]
        for path in list_paths()
        for section, _, name in [path.partition(".")]
    }


def _is_used(config: RunConfig, path: str) -> bool:
    return unmet_condition(path, lambda other: value_at(config, other)) is None
