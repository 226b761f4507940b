"""The bytes that stand for a row's content, for many rows at once: hashes, splits and the content hash of a version are made from them.

A key is the row written with bytes that occur in no UTF-8 text as marks, so different rows have different keys, whatever their texts:
`F5..F9` before the fields that are there, `FA..FC` around a list with `FB` before each part, `FD..FE` around what has fields of its own. A row of
one text is its own key.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow
from pyarrow import compute

_BYTES = pyarrow.binary()
_TAGS = [pyarrow.scalar(bytes([0xF5 + place]), _BYTES) for place in range(5)]
_LIST, _PART, _END, _OPEN, _CLOSE, _NOTHING = (pyarrow.scalar(mark, _BYTES) for mark in (b"\xfa", b"\xfb", b"\xfc", b"\xfd", b"\xfe", b""))


class RowKeys:
    """Keys of consecutive rows: `data` holds them one after another, key i from `offsets[i]` to `offsets[i + 1]` (int64)."""

    def __init__(self, table: pyarrow.Table) -> None:
        columns = [one_array(column) for column in table.columns]
        keys = columns[0].cast(_BYTES) if len(columns) == 1 and not columns[0].null_count else _fields(columns)
        self.offsets, self.data = string_parts(keys)

    def part(self, start: int, stop: int) -> RowKeys:
        """Return the keys of some of the rows."""
        keys = object.__new__(RowKeys)
        bounds = self.offsets[start : stop + 1]
        keys.offsets, keys.data = bounds - bounds[0], self.data[bounds[0] : bounds[-1]]
        return keys

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[bytes]:
        bounds = self.offsets.tolist()
        return (bytes(self.data[start:end]) for start, end in pairwise(bounds))

    def lengths(self) -> npt.NDArray[np.int64]:
        """Bytes of each key."""
        return np.diff(self.offsets)


def string_parts(array: pyarrow.Array) -> tuple[npt.NDArray[np.int64], memoryview]:
    """Return the offsets (one more than values, from 0) and the bytes of an array of text or binary, without a copy of the bytes."""
    if not len(array):
        return np.zeros(1, dtype=np.int64), memoryview(b"")
    _, offsets_buffer, data = array.buffers()
    offsets = np.frombuffer(offsets_buffer, dtype=np.int32)[array.offset : array.offset + len(array) + 1].astype(np.int64)
    whole = memoryview(data) if data is not None else memoryview(b"")
    return offsets - offsets[0], whole[offsets[0] : offsets[-1]]


def one_array(column: Any) -> pyarrow.Array:
    """Return a column as one array, without a copy where it is one already."""
    if not isinstance(column, pyarrow.ChunkedArray):
        return column
    if column.num_chunks == 1:
        return column.chunk(0)
    return pyarrow.concat_arrays(column.chunks) if column.num_chunks else pyarrow.array([], column.type)


def _fields(columns: list[pyarrow.Array]) -> pyarrow.Array:
    """Join the fields of rows, each behind its mark; a field that is not there leaves nothing."""
    parts: list[Any] = []
    for tag, column in zip(_TAGS, columns, strict=False):
        if column.null_count == len(column) and len(column):
            continue
        key = _key(column)
        if key.null_count:
            marked = compute.binary_join_element_wise(tag, key, _NOTHING)
            parts.append(compute.fill_null(marked, _NOTHING))
        else:
            parts += [tag, key]
    if not any(isinstance(part, pyarrow.Array) for part in parts):
        return pyarrow.array([b""] * (len(columns[0]) if columns else 0), _BYTES)
    return compute.binary_join_element_wise(*parts, _NOTHING)


def _key(column: pyarrow.Array) -> pyarrow.Array:
    kind = column.type
    if pyarrow.types.is_string(kind):
        return column.cast(_BYTES)
    if pyarrow.types.is_struct(kind):
        inner = _fields([_child(column, place) for place in range(kind.num_fields)])
        key = compute.binary_join_element_wise(_OPEN, inner, _CLOSE, _NOTHING)
        return compute.if_else(column.is_valid(), key, None) if column.null_count else key
    if pyarrow.types.is_list(kind):
        parts = column.flatten()
        marked = compute.binary_join_element_wise(_PART, _key(parts), _NOTHING)
        lengths = compute.fill_null(compute.list_value_length(column), 0)
        offsets = pyarrow.array(np.concatenate([[0], np.cumsum(np.asarray(lengths))]).astype(np.int32))
        joined = compute.binary_join(pyarrow.ListArray.from_arrays(offsets, marked), _NOTHING)
        key = compute.binary_join_element_wise(_LIST, joined, _END, _NOTHING)
        return compute.if_else(column.is_valid(), key, None) if column.null_count else key
    return column.cast(pyarrow.string()).cast(_BYTES)


def _child(column: pyarrow.Array, place: int) -> pyarrow.Array:
    """Return a field of a struct, null where the struct is; without a copy where nothing is null or sliced away."""
    return compute.struct_field(column, [place])
