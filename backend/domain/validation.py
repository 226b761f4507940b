"""Validation by pydantic: errors as sentences that name field, value and bound, and how stored values are read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo
from pydantic_core import ErrorDetails

from backend.domain.names import nearest_name
from backend.domain.wording import shorten
from backend.errors import InvalidInput

PATTERNS = {
    r"^[\w.-]+$": "only letters, digits, _, - and . are allowed",
    r"^[^\s:]+$": "spaces and colons are not allowed",
    r"^$|^[A-Za-z0-9._-]+:\d{1,5}$": "must be host:port, such as trainer:29500",
}
"""Sentences about the patterns that fields have."""

FAULTS = {
    "missing": "is missing",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} characters",
    "too_long": "must have at most {max_length} entries",
    "too_short": "must have at least {min_length} entries",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    "finite_number": "must be a finite number",
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    "string_type": "must be text",
    "union_tag_invalid": "'{tag}' can't be read here; {discriminator} is one of {expected_tags}",
    **dict.fromkeys(("list_type", "tuple_type", "set_type"), "must be a list"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "must be fields with their values"),
}
"""Messages by the type of pydantic's error."""


_BRANCH = re.compile(r"(str|function-\w+\[.*)$")
Model = TypeVar("Model", bound=BaseModel)
STORED = {"stored": True}
"""Context in which stored values are read: what could be sent once is not refused when it is opened again."""


def is_stored(info: ValidationInfo) -> bool:
    """Return whether a value is read that was stored: rules for new ones do not apply."""
    return bool(info.context and info.context.get("stored"))


def read_stored(model: type[Model], value: object) -> Model:
    """Return a stored value as a model, without fields that are gone and without the rules for new values."""
    return model.model_validate(value, context=STORED, extra="ignore")


class ReadRecord(BaseModel):
    """A frozen record that ignores unknown fields, for rows stored by other versions."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class StoredRecord(ReadRecord):
    """A record of which a row keeps the fields that were set, so that what was not reported stays apart from 0."""

    def dump(self) -> dict[str, object]:
        """Return the stored form: JSON values of the fields that were set."""
        return self.model_dump(mode="json", include=self.model_fields_set)


def validation_message(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """Join pydantic's errors into one sentence with field, value and bound; with `model`, an unknown field names the
    nearest one.
    """
    sentences = []
    for item in _faults(error):
        path = _describe_place(item["loc"])
        if item["type"] == "extra_forbidden":
            sentences.append(_unknown_field(path, model))
            continue
        text, value = describe_fault(item), item.get("input")
        got = f" (got {_as_typed(value)})" if path and not isinstance(value, dict) else ""
        sentences.append(f"{path}: {text}{got}" if path else text)
    return "; ".join(sentences)


def _faults(error: ValidationError) -> list[ErrorDetails]:
    """Return pydantic's errors by the paths of fields. Of a field that is a name or a config, pydantic puts the branch
    of the union into the path, and refuses the value once in each: the one that was not meant is left out.
    """
    items: list[ErrorDetails] = []
    for item in error.errors():
        branch = next((place for place, part in enumerate(item["loc"]) if _BRANCH.match(str(part))), None)
        if branch is None:
            items.append(item)
            continue
        item["loc"] = item["loc"][:branch] + item["loc"][branch + 1 :]
        meant_config = item["type"] == "string_type" and isinstance(item["input"], dict)
        if not meant_config and all(item["loc"] != other["loc"] for other in items):
            items.append(item)
    return items


def _describe_place(parts: Sequence[str | int]) -> str:
    """Return the path of a field; entries of lists count from 1.

    >>> _describe_place(("grpo", "rewards", 1, "target"))
    'grpo.rewards, entry 2, target'
    """
    place = ""
    for part, before in zip(parts, ("", *parts), strict=False):
        joint = ", " if isinstance(part, int) or isinstance(before, int) else "." if place else ""
        place += f"{joint}entry {part + 1}" if isinstance(part, int) else f"{joint}{part}"
    return place.removeprefix(", ")


def read_values(model: type[Model], values: object, *, intro: str = "", remedy: str = "") -> Model:
    """Return values as a model. Raises InvalidInput that names field, value and bound behind the intro."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        words = validation_message(error, model)
        message = f"{intro}{words}" + ("" if words.endswith("?") else ".")
        raise InvalidInput(message, remedy=remedy, field=field_at_fault(error)) from error


def field_at_fault(error: ValidationError) -> str | None:
    """Return the path of the first field that pydantic names, None if it names none."""
    return next((".".join(str(part) for part in item["loc"]) for item in _faults(error) if item["loc"]), None)


def errors_by_field(error: ValidationError) -> dict[str, str]:
    """Return a sentence for each field that pydantic names; errors of the config as a whole are left out."""
    errors: dict[str, str] = {}
    for item in _faults(error):
        path = ".".join(str(part) for part in item["loc"])
        if path and path not in errors:
            text = describe_fault(item)
            text = text[:1].upper() + text[1:]
            errors[path] = (
                text if isinstance(item.get("input"), dict) else f"{text} (got {_as_typed(item.get('input'))})"
            )
    return errors


def describe_fault(item: ErrorDetails) -> str:
    """Return what is wrong with a value, to follow the name of its field."""
    bounds = item.get("ctx", {})
    if item["type"] == "string_pattern_mismatch" and (words := PATTERNS.get(bounds["pattern"])):
        return words
    if (words := FAULTS.get(item["type"], "")) and not isinstance(bounds.get("error"), Exception):
        written = words.format(**{name: _bound(value) for name, value in bounds.items()})
        return re.sub(r"(?<=\b1 )(character)s|(?<=\b1 )(entr)ies", lambda m: m[1] or f"{m[2]}y", written)
    return str(item["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")


def _bound(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)


def _unknown_field(path: str, model: type[BaseModel] | None) -> str:
    near = nearest_name(path, _field_paths(model)) if model is not None else None
    return f"{path} is not a field" + (f"; did you mean {near}?" if near else "")


def _field_paths(model: type[BaseModel], prefix: Sequence[str] = ()) -> list[str]:
    """List the paths of a model's fields and, below them, those of the models that are fields themselves."""
    paths: list[str] = []
    for name, field in model.model_fields.items():
        inner: list[Any] = [field.annotation, *get_args(field.annotation)]
        paths.append(".".join((*prefix, name)))
        for kind in inner:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                paths += _field_paths(kind, (*prefix, name))
    return paths


def _as_typed(value: object) -> str:
    """Return a value as a person types it: 50 for the 50.0 that a field or a parser made of it."""
    if value is None or value == "":
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    if isinstance(value, list | tuple):
        return shorten(", ".join(map(str, value)) or "nothing", 80)
    return shorten(repr(value), 80)
