"""State of a sweep beside its runs, as its row holds it. Light imports, since the tables need it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class RefusedPoint(BaseModel):
    """Values of a run that could not be launched, and why."""

    model_config = ConfigDict(frozen=True)

    point: dict[str, object]
    cause: str


class SweepMarks(BaseModel):
    """State of a sweep: stopped or done, why no more runs are launched, the refused runs by number, and the step
    at which runs were pruned, by id. A scaling study has none.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    stopped: bool = False
    done: bool = False
    problem: str = ""
    refused: dict[int, RefusedPoint] = Field(default_factory=dict)
    pruned: dict[str, int] = Field(default_factory=dict)

    def dump(self) -> dict[str, object]:
        """Return the stored form: the fields that are not empty."""
        return self.model_dump(mode="json", exclude_defaults=True)
