"""A reporter that remembers, and imports with any number of bad rows, for tests of the data room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backend.domain.data.import_options import ImportOptions
from backend.domain.jobs.results import ImportResult
from backend.domain.jobs.states import StopRequest
from jobs.data.importer import import_files
from jobs.reporter import Reporter
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


def import_rows(
    source: Path,
    out_root: Path,
    *,
    reporter: Reporter | None = None,
    split: str | None = None,
    part_s: float = 20.0,
    **options: Any,
) -> ImportResult:
    """Import a source with these `ImportOptions`, in this process."""
    return import_files(
        source,
        ImportOptions(**{"max_rejected": 1.0, **options}),
        out_root=out_root,
        reporter=reporter or RememberingReporter(),
        split=split,
        part_s=part_s,
    )
