"""Base classes of payloads and results. Light imports, since an idle worker loads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict

from backend.domain.jobs.states import JobKind
from backend.domain.validation import ReadRecord, read_values
from backend.errors import RoundhouseError


class FrozenRecord(BaseModel):
    """A frozen record without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Payload(FrozenRecord):
    """Base of the payloads: the work of one job."""

    job_kind: ClassVar[JobKind]

    @property
    def num_devices(self) -> int:
        """GPUs of one machine that the job takes if it takes any."""
        return 1

    @property
    def num_machines(self) -> int:
        """Machines that the job takes at once."""
        return 1

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> Self:
        """Read the stored form. Raises InvalidInput naming the field, its value and the cure."""
        return read_values(
            cls,
            stored,
            intro=f"The payload of this {cls.job_kind.value} job can't be read: ",
            remedy="Another version of Roundhouse may have queued it; start the work again.",
        )

    def dump(self) -> dict[str, object]:
        """Return the stored form: JSON values."""
        return self.model_dump(mode="json")


class JobResult(ReadRecord):
    """Base of the results. The parent process adds the CPU seconds of the child, and of its reporter."""

    job_kind: ClassVar[JobKind]

    cpu_s: float | None = None
    reporter_cpu_s: float | None = None

    def dump(self) -> dict[str, object]:
        """Return the stored form: JSON values of the fields that were set."""
        return self.model_dump(mode="json", exclude_unset=True)


class JobFailure(ReadRecord):
    """Cause and remedy of a failed job, see backend.errors; falsy without a cause.

    `exit` is the status of a process that died, `tail` the end of its output.
    """

    cause: str = ""
    remedy: str = ""
    field: str | None = None
    exit: int | None = None
    tail: str = ""

    def __bool__(self) -> bool:
        return bool(self.cause)

    @classmethod
    def of(cls, error: RoundhouseError) -> JobFailure:
        """Return an error as a failure."""
        return cls(cause=error.message, remedy=error.remedy, field=error.field)

    def dump(self) -> dict[str, object]:
        """Return the stored form."""
        return self.model_dump(mode="json", exclude_unset=True)
