"""The GPU-hours that a person's jobs may take in a week. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from backend.domain.fields import Shown, setting
from backend.errors import Conflict

Hours = Annotated[float, Field(ge=0, le=10**6, allow_inf_nan=False)]
WEEK = timedelta(days=7)


class PersonLimits(BaseModel):
    """Limits on an account's use of the installation. None is the installation's own limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gpu_hours_per_week: Hours | None = setting(
        None,
        "GPU-hours per week",
        "GPU-hours that the account's jobs, but for replicas, may take from Monday 00:00 UTC on.",
        shown=Shown(empty="As the installation"),
    )


def week_start(now: datetime) -> datetime:
    """Return the last Monday, 00:00 UTC."""
    day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return day - timedelta(days=day.weekday())


@dataclass(frozen=True)
class GpuHours:
    """A person's GPU-hours of this week: used, the limit, and those expected of runs that wait or train; none where
    nothing was predicted.
    """

    used: float
    limit: float
    ends_at: datetime
    expected: float = 0.0

    @property
    def sentence(self) -> str:
        """Say how much of the limit is left."""
        expected = f", and about {self.expected:.1f} expected of runs that wait or train" if self.expected else ""
        return f"{self.used:.1f} of {self.limit:g} GPU-hours of this week are used{expected}."

    @property
    def is_used_up(self) -> bool:
        """Return whether no run fits any more."""
        return self.used + self.expected >= self.limit

    def require(self, needed: float | None) -> None:
        """Raise Conflict if a run does not fit. `needed` is None if its time is unknown: it is then refused only once
        nothing is left.
        """
        if not self.is_used_up and self.used + self.expected + (needed or 0.0) <= self.limit:
            return
        run = f"This run needs about {needed:.1f} GPU-hours" if needed else "This run needs GPU-hours"
        raise Conflict(
            f"{run}, and {self.sentence}",
            remedy=(
                f"Wait until {self.ends_at:%A %d %B}, 00:00 UTC, choose fewer steps or devices, or ask an administrator"
                " for more."
            ),
        )
