"""Columns of rows: those of nested objects by their dotted path (`ticket.body.question`), the usual names of each
field, and the look-up of columns by name in the first rows of a source.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import yaml

from backend.domain.json_values import Row
from backend.domain.wording import list_first

MAX_FOREIGN = 5
MAX_NAMES = 5
"""Names in the longest path that is offered; a longer one can be given all the same."""
MAX_NESTED = 200
"""Paths offered of one file: an object may hold a key for each of its rows."""


def read_column(row: Mapping[str, Any], column: str, default: Any = None) -> Any:
    """Return the value of a column of this name, else of the nested object at this path, else `default`. Lists have no
    paths.

    >>> read_column({"ticket": {"body": {"question": "Why?"}}}, "ticket.body.question")
    'Why?'
    """
    if column in row:
        return row[column]
    value: Any = row
    for name in column.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return default
        value = value[name]
    return value


def column_paths(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the columns of some rows, each followed by the paths of the objects nested in it."""
    nested: dict[str, dict[str, None]] = {}
    for row in rows:
        for column, value in row.items():
            paths = nested.setdefault(str(column), {})
            room = MAX_NESTED - sum(map(len, nested.values()))
            new = (path for path in _paths_below(str(column), value) if path not in paths)
            paths.update(dict.fromkeys(itertools.islice(new, room)))
    return list(dict.fromkeys(path for column, paths in nested.items() for path in (column, *paths)))


def _paths_below(path: str, value: Any) -> Iterator[str]:
    if not isinstance(value, Mapping) or path.count(".") + 1 >= MAX_NAMES:
        return
    for name, part in value.items():
        if name and "." not in name:
            yield f"{path}.{name}"
            yield from _paths_below(f"{path}.{name}", part)


def _last_name(column: str) -> str:
    """Return the last name of a path."""
    return column.rpartition(".")[2]


def table_columns(columns: Iterable[str], names: Iterable[str]) -> list[str] | None:
    """Return the columns of a table, of these names, that hold some columns and paths; None if one is not there."""
    known = set(names)
    holding = dict.fromkeys(column if column in known else column.partition(".")[0] for column in columns)
    return list(holding) if holding and known.issuperset(holding) else None


FIELD_NAMES: dict[str, list[str]] = yaml.safe_load(files(__package__).joinpath("column_names.yaml").read_text("utf-8"))
"""For each field of backend.domain.data.rows.mapping the usual names of its column, the most likely first."""

SIDE_NAMES = (
    ("response_a", "response_b"),
    ("response1", "response2"),
    ("response_1", "response_2"),
    ("response_0", "response_1"),
    ("answer_a", "answer_b"),
    ("completion_a", "completion_b"),
    ("output_a", "output_b"),
    ("output_1", "output_2"),
    ("conversation_a", "conversation_b"),
    ("result_x", "result_y"),
    ("response_x", "response_y"),
    ("text_a", "text_b"),
)

NEAR = 0.72  # difflib's ratio: `respons` is near `response` (0.93), `note` is not near `output` (0.40)


def plain_name(column: str) -> str:
    """Return a column's name in lower case with underscores, as the tables spell it."""
    return re.sub(r"[\s-]+", "_", column.strip().lower())


def _names_of(columns: Iterable[str]) -> dict[str, str]:
    """Return the columns by their plain names; a nested one also by its last name, if no other column has it."""
    listed = list(columns)
    by_name = {plain_name(column): column for column in reversed(listed)}
    by_depth = sorted(listed, key=lambda column: column.count("."))
    return {**{plain_name(_last_name(column)): column for column in reversed(by_depth)}, **by_name}


def nearest_column(field: str, columns: Iterable[str], *, like: str = "") -> str | None:
    """Return the column most likely meant for a field, or None.

    A known name of the field comes first, then one that is spelled nearly like such a name or like `like`; objects with
    columns of their own come last.
    """
    listed = list(columns)
    objects = {column.rpartition(".")[0] for column in listed}
    names = [*([plain_name(like)] if like else []), *FIELD_NAMES.get(field, [])]
    for is_object in (False, True):
        plain = _names_of(column for column in listed if (column in objects) == is_object)
        for name in names:
            if name in plain:
                return plain[name]
        for name in names:
            near = difflib.get_close_matches(name, plain, n=1, cutoff=NEAR)
            if near:
                return plain[near[0]]
    return None


def describe_missing(column: str, field: str, others: Sequence[str]) -> str:
    """Return the reason for a missing column: the columns found instead, and the nearest of them."""
    if not others:
        return f"column `{column}` is missing, and no column is left to take its place"
    near = nearest_column(field, others, like=column)
    listed = list_first([f"`{name}`" for name in others], 12)
    hint = "" if near is None else "; use it?" if len(others) == 1 else f"; use `{near}`?"
    return f"column `{column}` is missing (found: {listed}{hint})"


class SampleRows:
    """Sample rows with look-up of columns by normalised name; those `nested` in objects by their last name too."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], *, nested: bool = False) -> None:
        self.rows = rows
        self.columns = column_paths(rows) if nested else list(dict.fromkeys(str(name) for row in rows for name in row))
        plain_names = {plain_name(column): column for column in reversed(self.columns)}
        self._by_name = _names_of(self.columns) if nested else plain_names

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
class EncodedFile:
    """A file with bytes that are not UTF-8, where they begin, and the encoding that fits them, "" if none does."""

    name: str
    where: str
    likely: str = ""

    @property
    def described(self) -> str:
        """Place and encoding, as shown to a person: `a.csv (byte 0x92 in line 3; perhaps cp1252)`."""
        return f"{self.name} ({self.where}{f'; perhaps {self.likely}' if self.likely else ''})"


@dataclass(frozen=True)
class SourceHead:
    """The first rows of a source. `name`: their file, one of `files`. `left_out`: names of files that are not read,
    with the reason. `foreign`: files that are not UTF-8. `val_split`: the saved split that is kept for validation, or
    "". `unreadable`: why rows between them can't be read. `others`: names and a few rows of further files; no rows of
    one that can't be read.
    """

    rows: list[Row]
    name: str
    files: int
    bytes: int
    left_out: tuple[tuple[str, str], ...] = ()
    foreign: tuple[EncodedFile, ...] = ()
    val_split: str = ""
    unreadable: tuple[str, ...] = ()
    others: tuple[tuple[str, list[Row]], ...] = ()


def describe_left_out(head: SourceHead) -> str:
    """Return which files of a source are not read, by the reason; "" if all are."""
    reasons = dict.fromkeys(reason for _, reason in head.left_out)
    parts = [
        f"{list_first([name for name, other in head.left_out if other == reason], MAX_FOREIGN)} ({reason})"
        for reason in reasons
    ]
    return f"Left out: {'; '.join(parts)}." if parts else ""


def describe_foreign(head: SourceHead) -> str:
    """Return which files of a source are not UTF-8, what to do, and what happens otherwise; "" if all are."""
    if not head.foreign:
        return ""
    names = list_first([file.described for file in head.foreign], MAX_FOREIGN)
    lost = "With UTF-8, rows with such bytes are rejected."
    if head.files == 1:
        return f"Not UTF-8: {names}. Choose its encoding and check the preview. {lost}"
    if len({file.likely for file in head.foreign}) > 1:
        return (
            f"Not UTF-8, and not of one encoding: {names}. Save them as UTF-8, or import those of one encoding at a"
            f" time. {lost}"
        )
    return f"Not UTF-8: {names}. Choose the encoding; it is used for these files alone. {lost}"
