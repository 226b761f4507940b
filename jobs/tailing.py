"""Tail a child's events and output while the child writes them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from backend.domain.jobs.events import AnyEvent, read_event

MAX_BATCH_BYTES = 4 * 2**20
LONGEST_LINE_BYTES = 2**16
"""Output that has no end of a line for so long is cut."""


class Tail:
    """Reads complete lines of a growing file by byte offset. The file need not exist yet."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path, self.offset = path, offset

    def read(self) -> list[bytes]:
        """Return the lines completed since the last call, at most 4 MB of them, or one that is longer."""
        try:
            with self.path.open("rb") as file:
                block = self._read_block(file)
                if len(block) == MAX_BATCH_BYTES and b"\n" not in block:
                    # a line longer than a batch, which would otherwise block everything after it
                    block += file.readline()
        except FileNotFoundError:
            return []
        complete = block.rfind(b"\n") + 1
        self.offset += complete
        return block[:complete].splitlines()

    def _read_block(self, file: BinaryIO) -> bytes:
        """Return what a file has got since, at most a batch. A read of a whole batch would take its memory each time,
        several times a second for days.
        """
        file.seek(self.offset)
        return file.read(min(MAX_BATCH_BYTES, max(0, os.fstat(file.fileno()).st_size - self.offset)))


class OutputTail(Tail):
    """Reads a growing file as a terminal shows it: of a progress bar, which carriage returns end, the newest state."""

    def read(self) -> list[bytes]:
        """Return the lines completed since the last call, at most 4 MB of them; a line without an end is cut."""
        try:
            with self.path.open("rb") as file:
                block = self._read_block(file)
        except FileNotFoundError:
            return []
        complete = max(block.rfind(b"\n"), block.rfind(b"\r")) + 1
        if not complete and len(block) >= LONGEST_LINE_BYTES:
            complete = len(block)
        self.offset += complete
        lines = block[:complete].removesuffix(b"\n").split(b"\n")
        return [line.rstrip(b"\r").rpartition(b"\r")[2] for line in lines] if complete else []


def parse_events(lines: Iterable[bytes]) -> list[AnyEvent]:
    """Parse lines to events; skip partial lines and events unknown to this version."""
    return [event for line in lines if (event := read_event(line)) is not None]
