"""The exception about a single row of a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backend.errors import InvalidInput


class RowProblem(InvalidInput):
    """A row that can't be used. `reason` is shown to the owner of the file; `raw` is the beginning of the row, if known."""

    def __init__(self, reason: str, *, raw: str = "") -> None:
        super().__init__(reason, field="mapping")
        self.reason, self.raw = reason, raw


@dataclass(frozen=True)
class BadRow:
    """A rejected row: its file ("" if there is only one), its line or row (from 1), the reason, and its beginning."""

    file: str
    row: int
    reason: str
    raw: str = ""

    @property
    def place(self) -> str:
        """File and row, as shown to a person."""
        return f"{self.file}, row {self.row:,}" if self.file else f"row {self.row:,}"

    def as_dict(self, *, raw: int) -> dict[str, Any]:
        """Return plain values; of the raw row at most `raw` characters."""
        named = {"file": self.file} if self.file else {}
        return {**named, "row": self.row, "reason": self.reason, "raw": self.raw[:raw]}


def kind_of_value(value: Any) -> str:
    """Return the type of a JSON or Parquet value with its article.

    >>> kind_of_value({"x": 1})
    'an object'
    """
    words = {bool: "a truth value", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object", bytes: "bytes"}
    return "nothing" if value is None else words.get(type(value), f"a {type(value).__name__}")
