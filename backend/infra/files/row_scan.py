"""Sizes of a version's rows and the search for a text in them, column by column: half a million rows in a second or
two.

Sizes are computed once and kept beside the rows, which never change.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow
from pyarrow import compute

from backend.domain.data.rows.display import row_text
from backend.domain.data.rows.mapping import clean_row
from backend.domain.data.rows.records import RECORD
from backend.domain.data.splits import SPLITS
from backend.infra.files.parquet import count_rows, iter_file_tables
from backend.infra.files.row_index import keep_arrays

Flags = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]
FORMAT = 1
TABLE_ROWS = 4096
_WORDLESS = ("tools", "label", "answer")
"""Columns that hold no text of the row."""


@dataclass(frozen=True)
class RowSizes:
    """Characters of all text and number of turns of each row, train before validation; `labels` is 1 (good), 0 (bad)
    or -1 (none).
    """

    characters: Integers
    turns: Integers
    labels: npt.NDArray[np.int8]


def sizes_file(folder: Path) -> Path:
    """Return the path of the sizes of a version's rows."""
    return folder / f"sizes-{FORMAT}.npz"


def read_sizes(folder: Path, *, limit: int) -> RowSizes:
    """Return the sizes of a version's first `limit` rows, measured by reading them if they are not kept yet."""
    file = sizes_file(folder)
    if file.is_file():
        with np.load(file, allow_pickle=False) as data:
            return RowSizes(data["characters"][:limit], data["turns"][:limit], data["labels"][:limit])
    parts = [_measure(table) for table in _tables(folder, limit=limit)]
    sizes = RowSizes(
        *(
            np.concatenate([np.zeros(0, dtype=kind), *(part[place] for part in parts)])
            for place, kind in enumerate((np.int64, np.int64, np.int8))
        )
    )
    if len(sizes.characters) == _total(folder):
        keep_arrays(file, characters=sizes.characters, turns=sizes.turns, labels=sizes.labels)
    return sizes


def search_rows(folder: Path, text: str, *, part: str, limit: int) -> Flags:
    """Mark which of a version's first `limit` rows hold a text, whatever its case, in a part of the row (see
    `FIELDS_OF_KIND`; empty: anywhere). An empty text marks the rows that have the part.
    """
    marks = [_found(table, text, part) for table in _tables(folder, limit=limit)]
    return np.concatenate([np.zeros(0, dtype=bool), *marks])


def _total(folder: Path) -> int:
    return sum(count_rows(file) for split in SPLITS if (file := folder / f"{split}.parquet").is_file())


def _tables(folder: Path, *, limit: int) -> Iterator[pyarrow.Table]:
    left = limit
    for split in SPLITS:
        file = folder / f"{split}.parquet"
        for table in iter_file_tables(file, num_rows=TABLE_ROWS) if file.is_file() else ():
            if left <= 0:
                return
            yield table.slice(0, left)
            left -= table.num_rows


def _measure(table: pyarrow.Table) -> tuple[Integers, Integers, npt.NDArray[np.int8]]:
    """Return characters, turns and labels of rows."""
    characters, parts = np.zeros(table.num_rows, dtype=np.int64), np.zeros(table.num_rows, dtype=np.int64)
    turns, sides = np.zeros(table.num_rows, dtype=np.int64), np.zeros(table.num_rows, dtype=np.int64)
    with_calls = np.zeros(table.num_rows, dtype=bool)
    is_record = table.column_names == [RECORD]
    for name in table.column_names if not is_record else ():
        if name in (*_WORDLESS, RECORD):
            continue
        column = _one(table.column(name))
        if pyarrow.types.is_string(column.type):
            characters += _lengths(column)
            parts += np.asarray(column.is_valid())
            continue
        counts = _counts(column)
        parts += counts
        flat = column.flatten()
        if not pyarrow.types.is_struct(flat.type):
            characters += _sums(_lengths(flat), counts)
            continue
        characters += _sums(_lengths(flat.field("content")), counts)
        with_calls |= _sums(_counts(flat.field("tool_calls")), counts) > 0
        turns, sides = (turns + counts, sides) if name in ("messages", "prompt") else (turns, np.maximum(sides, counts))
    characters += np.maximum(0, parts - 1)  # a line break between two parts
    odd = np.flatnonzero(with_calls) if not is_record else np.arange(table.num_rows)
    for place, row in zip(odd.tolist(), table.take(odd).to_pylist() if len(odd) else [], strict=True):
        characters[place] = len(row_text(clean_row(row)))
    labels = np.full(table.num_rows, -1, dtype=np.int8)
    if "label" in table.column_names:
        labels = np.asarray(compute.fill_null(_one(table.column("label")).cast(pyarrow.int8()), -1))
    return characters, turns + sides, labels


def _found(table: pyarrow.Table, text: str, part: str) -> Flags:
    marks = np.zeros(table.num_rows, dtype=bool)
    names = table.column_names
    role = part if "messages" in names and part not in ("", "tools") else ""
    for name in [part] if part in names else ["messages"] if role else names:
        if name in ("label", "answer") or (not part and name == "tools"):
            continue
        # a record is JSON text, in which a quote or a line break is written as an escape
        needle = json.dumps(text, ensure_ascii=False)[1:-1] if name == RECORD else text
        column = _one(table.column(name))
        if pyarrow.types.is_string(column.type):
            marks |= _matches(column, needle)
            continue
        counts, flat = _counts(column), column.flatten()
        if pyarrow.types.is_struct(flat.type):
            parts = _in_messages(flat, needle)
            if role:
                parts &= np.asarray(compute.fill_null(compute.equal(flat.field("role"), role), False))
        else:
            parts = _matches(flat, needle)
        marks |= _sums(parts.astype(np.int64), counts) > 0
    return marks


def _in_messages(messages: pyarrow.StructArray, text: str) -> Flags:
    marks = _matches(messages.field("content"), text)
    calls = messages.field("tool_calls")
    if calls.null_count == len(calls):
        return marks
    function = calls.flatten().field("function")
    called = _matches(function.field("name"), text) | _matches(function.field("arguments"), text)
    return marks | (_sums(called.astype(np.int64), _counts(calls)) > 0)


def _matches(column: pyarrow.Array, text: str) -> Flags:
    if not text:
        return np.asarray(compute.fill_null(compute.greater(compute.binary_length(column), 0), False))
    return np.asarray(compute.fill_null(compute.match_substring(column, text, ignore_case=True), False))


def _one(column: Any) -> pyarrow.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _lengths(column: pyarrow.Array) -> Integers:
    return np.asarray(compute.fill_null(compute.utf8_length(column), 0)).astype(np.int64)


def _counts(column: pyarrow.Array) -> Integers:
    return np.asarray(compute.fill_null(compute.list_value_length(column), 0)).astype(np.int64)


def _sums(values: Integers, counts: Integers) -> Integers:
    """Add up consecutive values, `counts` of them at a time."""
    ends = np.cumsum(counts)
    sums = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(values, dtype=np.int64)])
    total: Integers = sums[ends] - sums[ends - counts]
    return total
