"""Tail a child's events file while the child writes it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from backend.domain.jobs.events import AnyEvent, read_event

MAX_BATCH_BYTES = 4 * 2**20


class Tail:
    """Reads complete lines of a growing file by byte offset. The file need not exist yet."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path, self.offset = path, offset

    def read(self) -> list[bytes]:
        """Return the lines completed since the last call, at most 4 MB of them, or one that is longer."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                block = file.read(MAX_BATCH_BYTES)
                if len(block) == MAX_BATCH_BYTES and b"\n" not in block:
                    block += (
                        file.readline()
                    )  # a line longer than a batch, which would otherwise block everything after it
        except FileNotFoundError:
            return []
        complete = block.rfind(b"\n") + 1
        self.offset += complete
        return block[:complete].splitlines()


def parse_events(lines: Iterable[bytes]) -> list[AnyEvent]:
    """Parse lines to events; skip partial lines and events unknown to this version."""
    return [event for line in lines if (event := read_event(line)) is not None]
