"""Fields of bodies: the known ones, those that change nothing, and all others, which are refused by name."""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from backend.domain.json_values import JsonObject
from backend.domain.serving.protocol import MAX_COUNT

MAX_FIELDS = 200
MAX_ITEMS = 10_000
FEW = Field(max_length=MAX_ITEMS, fail_fast=True)
"""A list that is read up to its first fault: millions of faults would need gigabytes."""
ModelName = Annotated[str, Field(min_length=1, max_length=200)]
TokenCount = Annotated[int, Field(ge=1, le=MAX_COUNT)]
TokenId = Annotated[int, Field(ge=0, le=MAX_COUNT)]


def _finite(value: JsonObject) -> JsonObject:
    """Refuse what can be read but not written again: 1e999 is read as infinite."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError as error:
        raise ValueError("a number in it is not finite, which JSON has no way to write") from error
    return value


OpenObject = Annotated[JsonObject, AfterValidator(_finite)]
"""An object of any form: a schema, arguments, metadata."""
HARMLESS = frozenset(
    {
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "client_metadata",
        "prompt_cache_retention",
    }
)
"""Fields that change no answer, with any value."""


def _whole(value: object) -> object:
    """Return 5 for 5.0, which JSON does not tell apart."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class StrictBody(BaseModel):
    """A body whose unknown fields are refused, except those without a value; a number is no text and no boolean."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)
    neutral: ClassVar[dict[str, tuple[Any, ...]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _drop_what_changes_nothing(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        if len(values) > MAX_FIELDS:  # each unknown one is a fault of its own
            raise ValueError(f"an object has {len(values):,} fields, and at most {MAX_FIELDS} are read")
        known = {name for key, field in cls.model_fields.items() for name in (key, field.alias or key)}

        def changes_nothing(name: str, value: Any) -> bool:
            if name in known:
                return False
            return (
                value is None
                or name in HARMLESS
                or any(type(value) in (int, float, bool, str) and value == v for v in cls.neutral.get(name, ()))
            )

        return {name: _whole(value) for name, value in values.items() if not changes_nothing(name, value)}
