"""Traits of a run's fields, stated at each field as `json_schema_extra`: label, effects, conditions, place on the form.
Pure.

`config_fields` reads them. Code that needs to know which fields matter reads it there and keeps no list of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from backend.domain.fields import Shown


class Effect(StrEnum):
    """Effect of a field. `RESULT`: the trained weights and their metrics; `LENGTH` the number of steps."""

    RESULT = "result"
    MEMORY = "memory"
    STEP_TIME = "step_time"
    LENGTH = "length"


class FieldGroup(StrEnum):
    """Position of a field on the launch form. The values are titles of tabs; the first two stand above."""

    MAIN = "Main"
    METHOD = "Objective and method"
    OPTIMIZER = "Optimizer"
    SCHEDULE = "Schedule"
    LOSS = "Loss and regularization"
    EVALUATION = "Evaluation and checkpoints"
    HARDWARE = "Hardware"


RESULT = frozenset({Effect.RESULT})
COST = frozenset({Effect.MEMORY, Effect.STEP_TIME})
RESULT_AND_COST = RESULT | COST
RESULT_AND_LENGTH = frozenset({Effect.RESULT, Effect.LENGTH})
NOTHING: frozenset[Effect] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Traits(Shown):
    """Traits of one field. `affects`: whether it is compared between runs (result), changes a measured peak or speed
    (memory, step_time) or an expected duration (step_time, length). `group`: its place on the launch form, None for a
    field with a widget of its own. `sweep`: offered on the page, allowed in YAML, or never. `names_row`: the value
    names a row of the database, so two configs are compared by the row's id. `is_replicate`: runs that differ in
    nothing else are replicates. `measured_as`: reduces a value to the part that affects memory and step time.
    `phrase`: how names and legends state a value, by default its label and the value.
    """

    affects: frozenset[Effect]
    group: FieldGroup | None = None
    sweep: Literal["offered", "allowed", "never"] = "offered"
    names_row: bool = False
    is_replicate: bool = False
    measured_as: Callable[[Any], Any] | None = None
    phrase: str = ""

    def __call__(self, schema: dict[str, Any]) -> None:
        """Write the traits into a JSON schema; pydantic's `json_schema_extra` hook."""
        super().__call__(schema)
        if self.affects:
            schema["affects"] = sorted(self.affects)
