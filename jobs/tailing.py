"""Reading the events of a child while it writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any

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


def parse_events(lines: list[bytes]) -> list[dict[str, Any]]:
    """Return the events of lines, what is torn or no object left out."""
    events = []
    for line in lines:
        try:
            event = json.loads(line, parse_constant=lambda _: None)  # NaN and the infinities: no database's JSON holds them
        except ValueError:
            continue  # a torn line of a killed child
        if isinstance(event, dict):
            events.append(event)
    return events
