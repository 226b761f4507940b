"""Small changes of a config in words that an address can carry: `learning_rate:0.001,preference.beta:0.2`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backend.domain.config_paths import flatten, with_values
from backend.domain.run_config import RunConfig
from backend.domain.yaml_text import parse_yaml
from backend.errors import InvalidInput

Value = float | int | str | bool
MAX_CHARACTERS = 500


def write_changes(changes: Sequence[tuple[str, Value]]) -> str:
    """Return changes as `field:value,field:value`, which `with_changes` reads."""
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
