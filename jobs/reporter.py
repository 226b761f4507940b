"""A room's only way out: one line of JSON per event, appended to a file that the parent process tails.

Knows nothing of SQL, Redis or HTTP, so metrics survive the loss of all three. Each line is written whole and unbuffered:
a killed child leaves at most one torn line, which the reader skips.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

StopRequest = Literal["cancel", "stop_and_save"]


@dataclass(frozen=True)
class JobSpec:
    """One attempt at a job, as the child process sees it. Paths in `payload` are relative to `artifacts`."""

    id: str
    attempt: int
    kind: str
    payload: dict[str, Any]
    artifacts: Path
    folder: Path  # this job's own folder, kept between attempts

    def path(self, relative: str) -> Path:
        """Return the absolute path of an artifact."""
        return self.artifacts / relative

    def relative(self, path: Path) -> str:
        """Return a path as it is stored in the database: relative to the artifacts' root."""
        return path.resolve().relative_to(self.artifacts.resolve()).as_posix()


class Reporter(Protocol):
    """How a room speaks while it works."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Record metric points of one step."""

    def progress(self, done: float, total: float, *, unit: str = "step", rate: float | None = None, message: str = "") -> None:
        """Say how far the work is; `rate` in units per second."""

    def log(self, text: str) -> None:
        """Add a line to the job's log."""

    def sample(self, step: int, prompt: str, completion: str) -> None:
        """Record a sample completion at a step."""

    def event(self, type_: str, **fields: Any) -> None:
        """Record anything else that the parent turns into rows: resumed, checkpoint, item, completion, ready, ..."""

    def should_stop(self) -> StopRequest | None:
        """Return what the user asked for, if anything. Cheap enough to call every step."""


class FileReporter:
    """The reporter of a child process: appends to `events`, reads stop requests from `control`."""

    def __init__(self, events: Path, control: Path) -> None:
        self._fd = os.open(events, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        self._control = control
        self.cpu_s = 0.0  # CPU time spent in here, for the overhead benchmark

    def _write(self, record: dict[str, Any]) -> None:
        started = time.thread_time()
        record["time"] = time.time()
        text = json.dumps(record, separators=(",", ":"), ensure_ascii=False, default=str)
        os.write(self._fd, text.encode("utf-8", "replace") + b"\n")  # half a character, as of a file's name, must not end the job
        self.cpu_s += time.thread_time() - started

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self._write({"type": "metrics", "step": step, "values": values})

    def progress(self, done: float, total: float, *, unit: str = "step", rate: float | None = None, message: str = "") -> None:
        self._write({"type": "progress", "done": done, "total": total, "unit": unit, "rate": rate, "message": message})

    def log(self, text: str) -> None:
        self._write({"type": "log", "text": text})

    def sample(self, step: int, prompt: str, completion: str) -> None:
        self._write({"type": "sample", "step": step, "prompt": prompt, "completion": completion})

    def event(self, type_: str, **fields: Any) -> None:
        self._write({"type": type_, **fields})

    def should_stop(self) -> StopRequest | None:
        started = time.thread_time()
        try:
            text = self._control.read_text().strip()
        except FileNotFoundError:
            text = ""
        self.cpu_s += time.thread_time() - started
        return text if text in ("cancel", "stop_and_save") else None  # type: ignore[return-value]

    def close(self) -> None:
        """Close the events file."""
        os.close(self._fd)


PROGRESS_EVERY_S = 0.25
