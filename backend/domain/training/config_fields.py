"""Fields of a run's config by their path, such as `lora.rank`: read, set, compared, and changed by an address. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.training.config import RunConfig, validation_message
from backend.domain.yaml_text import parse_yaml
from backend.errors import InvalidInput

Value = float | int | str | bool
MAX_CHARACTERS = 500  # of changes that an address carries
SECTIONS = ("lora", "preference", "grpo", "devices")


@dataclass(frozen=True)
class Change:
    """A field that differs: its path, and its value before and now as text."""

    field: str
    before: str
    now: str


def flatten(config: RunConfig) -> dict[str, Any]:
    """Return every field of a config by path; those of sections and of an architecture that is part of the config with a dot."""
    flat: dict[str, Any] = {}
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
    """Return what a field is when nobody sets it."""
    return field_at(path).default


def changed_fields(before: RunConfig, now: RunConfig) -> list[Change]:
    """Return the fields in which two configs differ, in the schema's order, but for the name."""
    old, new = flatten(before), flatten(now)
    paths = [*old, *(path for path in new if path not in old)]
    return [Change(path, _text(old.get(path)), _text(new.get(path))) for path in paths if path != "name" and old.get(path) != new.get(path)]


def with_values(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """Return a config with the fields at these paths set. Raises InvalidInput naming the field, the value and the bound."""
    data = config.model_dump(mode="json")
    for path, value in values.items():
        section, _, field = path.partition(".")
        if not field:
            data[section] = value
        elif isinstance(data.get(section), dict):
            data[section] = {**data[section], field: value}
        else:
            raise InvalidInput(f"This run has no {path}.", remedy="Give the architecture itself instead of its name.", field=path)
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise InvalidInput(f"{validation_message(error)}.", field=next(iter(values), None)) from error


def write_changes(changes: Sequence[tuple[str, Value]]) -> str:
    """Return changes as an address carries them, `learning_rate:0.001,preference.beta:0.2`, which `with_changes` reads."""
    return ",".join(f"{field}:{str(value).lower() if isinstance(value, bool) else value}" for field, value in changes)


def with_changes(config: RunConfig, text: str) -> RunConfig:
    """Return a config in which these fields have these values. Raises InvalidInput for an unknown field or a value it can't have."""
    if not text.strip():
        return config
    values: dict[str, Any] = {}
    for part in text[:MAX_CHARACTERS].split(","):
        field, colon, value = part.partition(":")
        field = field.strip()
        if not colon or field not in flatten(config):
            raise InvalidInput(
                f"“{part[:80]}” names no field of a run.", remedy="Write `field:value`, such as learning_rate:0.001.", field="set"
            )
        try:
            values[field] = parse_yaml(value, what="The value")
        except InvalidInput as error:
            raise InvalidInput(f"“{value[:80]}” is no value.", field=field) from error
    return with_values(config, values)


def field_at(path: str) -> FieldInfo:
    """Return the schema of the field at a path. Raises InvalidInput for an unknown one."""
    section, _, name = path.partition(".")
    model: type[BaseModel] = RunConfig
    if name:
        found = {**{key: RunConfig.model_fields[key].annotation for key in SECTIONS}, "architecture": ArchitectureConfig}.get(section)
        model = found if isinstance(found, type) and issubclass(found, BaseModel) else RunConfig
    field = model.model_fields.get(name or section) if not name or model is not RunConfig else None
    if field is None or (not name and section in SECTIONS):
        raise InvalidInput(f"A run has no field {path!r}.", remedy="Fields of a section are written with a dot: lora.rank.", field=path)
    return field


def kind_of(path: str) -> type | tuple[Any, ...]:
    """Return int, float, bool or str for the field at a path, or the words and numbers that it may be."""
    annotation: Any = field_at(path).annotation
    if get_origin(annotation) is not None and "Literal" in str(get_origin(annotation)):
        return tuple(get_args(annotation))
    kinds = [part for part in (get_args(annotation) or (annotation,)) if part is not type(None)]
    return next((kind for kind in (int, float, bool, str) if kind in kinds), str)


def _text(value: Any) -> str:
    if value is None or value == "":
        return "—"
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(str(part) for part in value) if isinstance(value, list) else str(value)
