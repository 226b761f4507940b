"""The first rows of a source, their columns by name, and the recognised kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.domain.data.kinds import DatasetKind
from backend.domain.data.recognition.column_names import FIELD_NAMES, names_of, plain_name
from backend.domain.data.rows.columns import column_paths, read_column
from backend.domain.json_values import Row


@dataclass(frozen=True)
class Recognition:
    """A recognised kind. `mapping` goes from source column to field; `confidence` from 0 to 1; `reason` is a sentence.

    `is_fallback`: the rows are read as text only because no other kind fits and no column has a usual name of texts.
    """

    kind: DatasetKind
    mapping: dict[str, str]
    confidence: float
    reason: str
    is_fallback: bool = False


class SampleRows:
    """Sample rows with look-up of columns by normalised name; those `nested` in objects by their last name too."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], *, nested: bool = False) -> None:
        self.rows = rows
        self.columns = column_paths(rows) if nested else list(dict.fromkeys(str(name) for row in rows for name in row))
        plain_names = {plain_name(column): column for column in reversed(self.columns)}
        self._by_name = names_of(self.columns) if nested else plain_names

    def find(self, names: Sequence[str], *, but: Sequence[str] = ()) -> str | None:
        """Return the first column with one of the names."""
        return next(
            (self._by_name[name] for name in names if name in self._by_name and self._by_name[name] not in but), None
        )

    def find_field(self, *fields: str, but: Sequence[str] = ()) -> str | None:
        """Return the first column with a usual name of one of the fields."""
        return self.find([name for field in fields for name in FIELD_NAMES[field]], but=but)

    def values(self, column: str) -> list[Any]:
        """Return the non-null values of a column."""
        return [value for row in self.rows if (value := read_column(row, column)) is not None]

    def all(self, column: str, test: Callable[[Any], bool]) -> bool:
        """Return whether most values pass a test, so that a few broken rows do not matter."""
        values = self.values(column)
        return bool(values) and sum(map(test, values)) >= 0.6 * len(values)

    def is_text(self, column: str) -> bool:
        """Return whether most values are text."""
        return self.all(column, lambda value: isinstance(value, str))


@dataclass(frozen=True)
class SourceHead:
    """The first rows of a source. `name`: their file, one of `files`. `left_out`: number of files that are not read.
    `foreign`: where bytes that are not UTF-8 begin, or "". `val_split`: the saved split that is kept for validation, or
    "". `unreadable`: why rows between them can't be read. `others`: names and a few rows of further files; no rows of
    one that can't be read. `likely_encoding`: one that fits, where the bytes are not UTF-8.
    """

    rows: list[Row]
    name: str
    files: int
    bytes: int
    left_out: int = 0
    foreign: str = ""
    val_split: str = ""
    unreadable: tuple[str, ...] = ()
    others: tuple[tuple[str, list[Row]], ...] = ()
    likely_encoding: str = ""
