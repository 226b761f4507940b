"""A reporter that remembers, for tests of the data room."""

from __future__ import annotations

from backend.domain.jobs.states import StopRequest
from tests.support.jobs import MemoryReporter


class RememberingReporter(MemoryReporter):
    """Keeps what a room says; asks it to stop after a number of questions."""

    def __init__(self, *, stop_after: int | None = None) -> None:
        super().__init__()
        self._stop_after = stop_after
        self._asked = 0

    def should_stop(self) -> StopRequest | None:
        self._asked += 1
        return "cancel" if self._stop_after is not None and self._asked > self._stop_after else None
