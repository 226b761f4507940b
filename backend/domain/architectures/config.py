"""A validated architecture: the single schema behind form, YAML, command line and stored row."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Self

from pydantic import ValidationError, ValidationInfo, model_validator

from backend.domain.architectures.fields import ArchitectureFields
from backend.domain.architectures.rules import (
    ImpossibleShape,
    fill_defaults,
    find_problems,
    find_unknown,
    problems_by_field,
)
from backend.domain.validation import is_stored


class ArchitectureConfig(ArchitectureFields):
    """A validated architecture: family defaults filled in, impossible shapes refused with `ImpossibleShape`."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any, info: ValidationInfo) -> Any:
        if not isinstance(data, Mapping):
            return data
        if not is_stored(info) and (unknown := find_unknown(data, cls.model_fields)):
            raise ImpossibleShape(unknown)
        return fill_defaults(data)

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> Self:
        if not is_stored(info) and (problems := find_problems(self)):
            raise ImpossibleShape(problems)
        if self.head_size is not None and self.head_size * self.num_heads == self.width:
            object.__setattr__(self, "head_size", None)  # the same network is the same config
        return self


def find_other_problems(fields: Mapping[str, Any], *, unreadable: Collection[str] = ()) -> dict[str, str]:
    """Return the problems of a config with unreadable or out-of-bounds fields, by field. Problems of several fields
    together are reported as well, if they hold for any value of those fields.
    """
    sound = {name: value for name, value in fields.items() if name not in unreadable}
    error = _error_of(sound)
    outside = {str(item["loc"][0]) for item in error.errors() if item["loc"]} if error else set()
    out_of_bounds = problems_by_field(error) if error and outside else {}
    sound = {name: value for name, value in sound.items() if name not in outside}
    filled = {**ArchitectureConfig().model_dump(), **fill_defaults(sound)}
    stand_in = {name: filled[name] for name in (*unreadable, *outside) if filled.get(name) is not None}
    other = {name: 2 * value + 2 for name, value in stand_in.items()}
    # a problem with both stand-ins does not depend on the unreadable field
    first, second = (
        problems_by_field(e) if (e := _error_of({**sound, **values})) else {} for values in (stand_in, other)
    )
    return {name: words for name, words in first.items() if second.get(name) == words} | out_of_bounds


def _error_of(values: Mapping[str, Any]) -> ValidationError | None:
    try:
        ArchitectureConfig.model_validate(values)
    except ValidationError as error:
        return error
    return None
