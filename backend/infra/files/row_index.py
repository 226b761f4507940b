"""Arrays of a version's rows: an index of eight bytes a row, enough to compare two versions without loading either;
sizes; and the search for a text, column by column, half a million rows in a second or two.

Index and sizes are made on first use and stored beside the rows, which never change, so they never become stale.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import uuid
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow
from pyarrow import compute

from backend.domain.data.kinds import DatasetKind
from backend.domain.data.rows.display import row_text
from backend.domain.data.rows.mapping import canonical_json, clean_row
from backend.domain.data.rows.records import RECORD
from backend.domain.data.splits import SPLITS
from backend.domain.data.versions.conditions import FIELDS_OF_KIND, field_size, row_key
from backend.domain.json_values import Row
from backend.infra.files.parquet import count_rows, iter_file_tables, read_row_page

Numbers = npt.NDArray[np.uint64]
Progress = Callable[[int], None]
INDEX_FORMAT = 1
STEPS_PER_DOUBLING = 8  # sizes are counted in steps of 9%, so quantiles of any number of rows take no memory


@dataclass(frozen=True)
class SizeStats:
    """Sizes of one field over the rows of a split: characters, or turns. Quantiles are accurate within 5 %."""

    rows: int
    filled: int
    total: int
    smallest: int
    largest: int
    median: int
    p95: int

    @property
    def mean(self) -> float:
        """Mean size over all rows."""
        return self.total / self.rows if self.rows else 0.0


@dataclass(frozen=True)
class SplitIndex:
    """`hashes` of the rows' contents and `keys` of their prompts, in the order of the rows."""

    hashes: Numbers
    keys: Numbers
    sizes: dict[str, SizeStats]


class _Sizes:
    """Counts sizes in classes that grow by a fixed factor."""

    def __init__(self) -> None:
        self.rows = self.filled = self.total = self.largest = 0
        self.smallest = -1
        self._classes: dict[int, int] = {}

    def add(self, size: int) -> None:
        """Count one row's field."""
        self.rows += 1
        self.filled += size > 0
        self.total += size
        self.largest = max(self.largest, size)
        self.smallest = size if self.smallest < 0 else min(self.smallest, size)
        place = 0 if size == 0 else 1 + round(math.log2(size) * STEPS_PER_DOUBLING)
        self._classes[place] = self._classes.get(place, 0) + 1

    def _quantile(self, share: float) -> int:
        counted, target = 0, share * self.rows
        for place in sorted(self._classes):
            counted += self._classes[place]
            if counted >= target:
                size = 0 if place == 0 else round(2 ** ((place - 1) / STEPS_PER_DOUBLING))
                return min(max(size, self.smallest), self.largest)
        return 0

    def stats(self) -> SizeStats:
        """Return the statistics."""
        return SizeStats(
            self.rows,
            self.filled,
            self.total,
            max(0, self.smallest),
            self.largest,
            self._quantile(0.5),
            self._quantile(0.95),
        )


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "little")


def index_file(folder: Path, split: str) -> Path:
    """Return the path of a split's index."""
    return folder / f"index-{split}-{INDEX_FORMAT}.npz"


def read_split_index(folder: Path, *, split: str, kind: DatasetKind, progress: Progress | None = None) -> SplitIndex:
    """Return the index of a split, built by reading its rows once if it does not exist. `progress` is called with the
    number of rows read since the last call.
    """
    cached = index_file(folder, split)
    if cached.is_file():
        return _load(cached)
    index = _make(folder / f"{split}.parquet", kind=kind, progress=progress)
    _save(index, cached)
    return index


def _make(file: Path, *, kind: DatasetKind, progress: Progress | None) -> SplitIndex:
    hashes, keys = array("Q"), array("Q")
    sizes = {field: _Sizes() for field in FIELDS_OF_KIND[kind]}
    if file.is_file():
        for table in iter_file_tables(file, num_rows=512):
            for raw in table.to_pylist():
                _note(clean_row(raw), hashes, keys, sizes)
            if progress is not None:
                progress(table.num_rows)
    empty = np.zeros(0, dtype=np.uint64)
    return SplitIndex(
        np.frombuffer(hashes, dtype=np.uint64) if hashes else empty,
        np.frombuffer(keys, dtype=np.uint64) if keys else empty,
        {field: counted.stats() for field, counted in sizes.items()},
    )


def _note(row: Row, hashes: array[int], keys: array[int], sizes: dict[str, _Sizes]) -> None:
    hashes.append(_number(canonical_json(row)))
    keys.append(_number(row_key(row)))
    for field, counted in sizes.items():
        counted.add(field_size(row, field))


def _save(index: SplitIndex, file: Path) -> None:
    names = sorted(index.sizes)
    numbers = [[getattr(index.sizes[name], part) for part in SizeStats.__annotations__] for name in names]
    sizes = np.array(numbers, dtype=np.int64)
    _keep_arrays(file, hashes=index.hashes, keys=index.keys, names=np.array(names), sizes=sizes)


def _keep_arrays(file: Path, **arrays: Any) -> None:
    """Write to a temporary file and rename it, so that readers see a complete file. A read-only folder is no error."""
    partial = file.with_name(f".{uuid.uuid4().hex[:8]}.partial")
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    try:
        partial.write_bytes(buffer.getvalue())
        os.replace(partial, file)
    except OSError:
        partial.unlink(missing_ok=True)


def _load(file: Path) -> SplitIndex:
    with np.load(file, allow_pickle=False) as data:
        sizes = {str(name): SizeStats(*map(int, row)) for name, row in zip(data["names"], data["sizes"], strict=True)}
        return SplitIndex(data["hashes"], data["keys"], sizes)


def read_row(folder: Path, *, split: str, place: int) -> Row | None:
    """Return one row by its index in a split."""
    rows = read_row_page(folder, split=split, offset=place, limit=1)
    return rows[0] if rows else None


Flags = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]
SIZES_FORMAT = 1
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
    return folder / f"sizes-{SIZES_FORMAT}.npz"


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
        _keep_arrays(file, characters=sizes.characters, turns=sizes.turns, labels=sizes.labels)
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
