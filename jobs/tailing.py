"""Tails a child's events file while the child writes it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import IO

from backend.domain.jobs.events import AnyEvent, read_event

MAX_BATCH_BYTES = 4 * 2**20


class Tail:
    """Reads complete lines of a growing file by byte offset."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path, self.offset = path, offset
        self._file: IO[bytes] | None = None

    def read(self) -> list[bytes]:
        """Return the lines that are complete since the last time."""
        if self._file is None:
            if not self.path.exists():
                return []
            self._file = self.path.open("rb")
        self._file.seek(self.offset)
        block = self._file.read(MAX_BATCH_BYTES)
        if len(block) == MAX_BATCH_BYTES and b"\n" not in block:
            block += self._file.readline()  # a line longer than a batch, or nothing behind it would ever be read
        complete = block.rfind(b"\n") + 1
        self.offset += complete
        return block[:complete].splitlines()


def parse_events(lines: Iterable[bytes]) -> list[AnyEvent]:
    """Return the events of lines; torn ones, and what is no event of this version, are left out."""
    return [event for line in lines if (event := read_event(line)) is not None]
