"""A reporter that remembers, for tests of the data room."""

from __future__ import annotations

from typing import Any

from jobs.reporter import StopRequest


class RememberingReporter:
    """Keeps what a room says; asks it to stop after a number of questions."""

    def __init__(self, *, stop_after: int | None = None) -> None:
        self.lines: list[str] = []
        self.progress_seen: list[tuple[float, float]] = []
        self._stop_after = stop_after
        self._asked = 0

    def metrics(self, step: int, values: dict[str, float]) -> None: ...

    def progress(self, done: float, total: float, *, unit: str = "step", rate: float | None = None, message: str = "") -> None:
        self.progress_seen.append((done, total))

    def log(self, text: str) -> None:
        self.lines.append(text)

    def sample(self, step: int, prompt: str, completion: str) -> None: ...

    def event(self, type_: str, **fields: Any) -> None: ...

    def should_stop(self) -> StopRequest | None:
        self._asked += 1
        return "cancel" if self._stop_after is not None and self._asked > self._stop_after else None
