"""Keys of rows: bytes from which hashes, splits and the content hash of a version are computed, for many rows at once.
A key is the row serialised with marks that do not occur in UTF-8, so different rows have different keys: `F5..F9`
before the fields present, `FA..FC` around a list with `FB` before each part, `FD..FE` around a struct. A row of one
text is its own key.
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
_LIST, _PART, _END, _OPEN, _CLOSE, _NOTHING = (
    pyarrow.scalar(mark, _BYTES) for mark in (b"\xfa", b"\xfb", b"\xfc", b"\xfd", b"\xfe", b"")
)


class RowKeys:
    """Keys of consecutive rows: `data` holds them in a row, key i from `offsets[i]` to `offsets[i + 1]` (int64)."""

    def __init__(self, table: pyarrow.Table) -> None:
        columns = [one_array(column) for column in table.columns]
        is_text = len(columns) == 1 and pyarrow.types.is_string(columns[0].type)
        keys = columns[0].cast(_BYTES) if is_text else _joined(_fields(columns), rows=table.num_rows)
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
    """Return the offsets (one more than values, from 0) and the bytes of an array of text or binary, without a copy of
    the bytes.
    """
    if not len(array):
        return np.zeros(1, dtype=np.int64), memoryview(b"")
    _, offsets_buffer, data = array.buffers()
    offsets = np.frombuffer(offsets_buffer, dtype=np.int32)[array.offset : array.offset + len(array) + 1].astype(
        np.int64
    )
    buffer = memoryview(data) if data is not None else memoryview(b"")
    return offsets - offsets[0], buffer[offsets[0] : offsets[-1]]


def is_blank(text: bytes) -> bool:
    """Return whether a UTF-8 text is only white space; fast if it begins with something else."""
    return not text[:64].decode("utf-8", "ignore").strip() and not text.decode().strip()


def one_array(column: Any) -> pyarrow.Array:
    """Return a column as one array, without a copy if it is one already."""
    if not isinstance(column, pyarrow.ChunkedArray):
        return column
    if column.num_chunks == 1:
        return column.chunk(0)
    return pyarrow.concat_arrays(column.chunks) if column.num_chunks else pyarrow.array([], column.type)


def _joined(parts: list[Any], *, rows: int) -> pyarrow.Array:
    """Join marks and columns row by row, in one pass."""
    if not any(isinstance(part, pyarrow.Array) for part in parts):
        return pyarrow.array([b"".join(part.as_py() for part in parts)] * rows, _BYTES)
    return parts[0] if len(parts) == 1 else compute.binary_join_element_wise(*_merged(parts), _NOTHING)


def _merged(parts: list[Any]) -> list[Any]:
    """Merge consecutive marks into one, because joining costs per part."""
    merged: list[Any] = []
    for part in parts:
        if merged and not isinstance(part, pyarrow.Array) and not isinstance(merged[-1], pyarrow.Array):
            part = pyarrow.scalar(merged.pop().as_py() + part.as_py(), _BYTES)
        merged.append(part)
    return merged


def _fields(columns: list[pyarrow.Array]) -> list[Any]:
    """Return the parts to join for the fields of rows, each after its mark; missing fields are empty."""
    parts: list[Any] = []
    for tag, column in zip(_TAGS, columns, strict=False):
        if not column.null_count:
            parts += [tag, *_parts(column)]
        elif column.null_count < len(column):
            marked = _joined([tag, *_parts(column)], rows=len(column))
            parts.append(compute.if_else(column.is_valid(), marked, _NOTHING))
    return parts


def _parts(column: pyarrow.Array) -> list[Any]:
    """Return the parts to join for the values of a column; undefined for nulls."""
    kind = column.type
    if pyarrow.types.is_struct(kind):
        return [_OPEN, *_fields([compute.struct_field(column, [place]) for place in range(kind.num_fields)]), _CLOSE]
    if pyarrow.types.is_list(kind):
        flat = column.flatten()
        lengths = np.asarray(compute.fill_null(compute.list_value_length(column), 0))
        if len(flat) == len(column) and (lengths == 1).all():
            return [_LIST, _PART, *_parts(flat), _END]
        elements = _joined([_PART, *_parts(flat)], rows=len(flat))
        return [_LIST, _regrouped(elements, lengths), _END]
    if pyarrow.types.is_string(kind):
        return [compute.fill_null(column, "").cast(_BYTES) if column.null_count else column.cast(_BYTES)]
    return [compute.fill_null(column.cast(pyarrow.string()), "").cast(_BYTES)]


def _regrouped(elements: pyarrow.Array, lengths: npt.NDArray[np.int64]) -> pyarrow.Array:
    """Regroup consecutive elements into one value each, without a copy."""
    offsets, data = string_parts(elements)
    bounds = offsets[np.concatenate([[0], np.cumsum(lengths)])].astype(np.int32)
    return pyarrow.Array.from_buffers(_BYTES, len(lengths), [None, pyarrow.py_buffer(bounds), pyarrow.py_buffer(data)])
