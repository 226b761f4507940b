"""Progress of a job: share, time left, text, and the expected wait behind others."""

from __future__ import annotations

from dataclasses import dataclass

from backend.domain.jobs.events import ProgressEvent
from backend.domain.wording import format_bytes, format_duration


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units; `rate` in units per second; `left_s` is None where no rate is known."""

    done: float
    total: float
    unit: str
    rate: float | None
    left_s: float | None
    message: str

    @property
    def share(self) -> float:
        """Share of the work that is done, 0 to 1."""
        return min(1.0, self.done / self.total) if self.total > 0 else 0.0


def read_progress(event: ProgressEvent | None) -> Progress | None:
    """Return the progress that an event reports; None before the first one."""
    if event is None:
        return None
    left_s = max(0.0, event.total - event.done) / event.rate if event.rate and event.rate > 0 else None
    return Progress(event.done, event.total, event.unit or "step", event.rate or None, left_s, event.message)


def format_progress(progress: Progress | None) -> str:
    """Format progress in one line: `step 120 of 300 · 4.2 steps/s · 43 s left`, `2 MB of 8 MB · 1 MB/s · 6 s left`."""
    if progress is None:
        return ""
    unit = progress.unit.removesuffix("s")
    if unit == "byte":
        parts = [f"{format_bytes(progress.done)} of {format_bytes(progress.total)}"] if progress.total else []
        parts += [f"{format_bytes(progress.rate)}/s"] if progress.rate else []
    elif not progress.total and not progress.done:
        parts = []  # nothing is counted yet; the message tells more
    else:
        parts = [f"{unit} {progress.done:,.0f} of {progress.total:,.0f}"]
        if progress.rate:
            slow = progress.rate < 0.5
            parts.append(f"{1 / progress.rate:.1f} s per {unit}" if slow else f"{progress.rate:,.1f} {unit}s/s")
    if progress.left_s is not None and progress.done < progress.total:
        parts.append(f"{format_duration(progress.left_s)} left")
    if progress.message:
        parts.append(progress.message)
    return " · ".join(parts)


def expected_wait_s(ahead: list[Progress | None], *, slots: int) -> float | None:
    """Return the seconds until a slot frees for a job behind `ahead`, or None where one of them has no known rate.

    Jobs are assigned to slots in order, each to the first that frees. Waiting jobs have reported no rate, so the wait
    behind them is None.
    """
    if slots < 1:
        return None
    free_at = [0.0] * slots
    for progress in ahead:
        if progress is None or progress.left_s is None:
            return None
        free_at.sort()
        free_at[0] += progress.left_s
    return min(free_at)
