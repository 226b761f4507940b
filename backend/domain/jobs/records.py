"""Bases of the classes that two processes exchange about a job. Light: an idle worker imports them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from backend.domain.jobs.states import JobKind
from backend.domain.validation import field_at_fault, validation_message
from backend.errors import InvalidInput


class Record(BaseModel):
    """A frozen record without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Payload(Record):
    """What one job is asked to do."""

    job_kind: ClassVar[JobKind]

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> Self:
        """Read the stored form. Raises InvalidInput naming the field, its value and the cure."""
        try:
            return cls.model_validate(stored)
        except ValidationError as error:
            raise _unreadable(cls, error) from None

    def dump(self) -> dict[str, Any]:
        """Return the form that is stored: JSON values alone."""
        return self.model_dump(mode="json")


def _unreadable(payload: type[Payload], error: ValidationError) -> InvalidInput:
    return InvalidInput(
        f"The payload of this {payload.job_kind.value} job can't be read: {validation_message(error, payload)}.",
        remedy="Another version of Roundhouse may have queued it; start the work again.",
        field=field_at_fault(error),
    )
