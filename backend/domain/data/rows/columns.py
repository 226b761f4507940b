"""Columns of a row, and those of nested objects by their dotted path: `ticket.body.question`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

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


def last_name(column: str) -> str:
    """Return the last name of a path."""
    return column.rpartition(".")[2]


def table_columns(columns: Iterable[str], names: Iterable[str]) -> list[str] | None:
    """Return the columns of a table, of these names, that hold some columns and paths; None if one is not there."""
    known = set(names)
    holding = dict.fromkeys(column if column in known else column.partition(".")[0] for column in columns)
    return list(holding) if holding and known.issuperset(holding) else None
