"""The one exception about a single row of a dataset."""

from __future__ import annotations

from backend.errors import InvalidInput


class RowProblem(InvalidInput):
    """A row that can't be used. `reason` says why, in words for the person who owns the file."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, field="mapping")
        self.reason = reason
