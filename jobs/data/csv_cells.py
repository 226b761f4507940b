"""Find cells of CSV with array operations: quotation marks, delimiters, line ends, the last complete row, columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow
from pyarrow import compute

from backend.domain.data.parsing.text_formats import CsvShape
from jobs.data.blocks import Bytes, CsvMarks

Places = npt.NDArray[np.int32]
_PIECE_BYTES = 2**18  # NumPy's temporaries fit the cache
_QUOTE, _LF, _CR = 0x22, 0x0A, 0x0D


def csv_marks(data: Bytes, shape: CsvShape) -> CsvMarks:
    """Return the positions of quotation marks (if `quoted`), delimiters, line feeds and carriage returns, in order."""
    characters = np.frombuffer(data, dtype=np.uint8)
    marks = [_LF, _CR, ord(shape.delimiter), *([_QUOTE] if shape.quoted else [])]
    pieces = [np.zeros(0, dtype=np.int64)]
    for start in range(0, len(data), _PIECE_BYTES):
        piece = characters[start : start + _PIECE_BYTES]
        marked = piece == marks[0]
        for character in marks[1:]:
            marked |= piece == character
        pieces.append(np.flatnonzero(marked) + start)
    places = np.concatenate(pieces)
    return CsvMarks(places.astype(np.int32), characters[places])


def csv_cut(data: Bytes, marks: CsvMarks, shape: CsvShape, *, is_whole: bool) -> int:
    """Return the end of the last complete row, or 0 without one or at a misplaced quotation mark. Quotes enclose
    fields, so a line end is a row end if an even number of them precede it.
    """
    end = len(data) if is_whole else data.rfind(b"\n") + 1
    characters = np.frombuffer(data, dtype=np.uint8)
    quotes = marks.places[marks.kinds == _QUOTE]
    edges = np.zeros(256, dtype=bool)
    edges[[_QUOTE, _LF, ord(shape.delimiter)]] = True
    opening, closing = quotes[0::2], quotes[1::2]
    if not edges[characters[opening[opening > 0] - 1]].all():
        return 0
    edges[_CR] = True
    if not edges[characters[closing[closing + 1 < len(data)] + 1]].all():
        return 0
    if is_whole and len(quotes) % 2 == 0:
        return end
    while end > 0:
        before_end = int(np.searchsorted(quotes, end))
        if before_end % 2 == 0:
            break
        end = data.rfind(b"\n", 0, int(quotes[before_end - 1])) + 1
    return end


def csv_columns(data: Bytes, marks: CsvMarks, shape: CsvShape, names: Sequence[str]) -> pyarrow.Table | None:
    """Return the named columns of rows cut by `csv_cut`, which are UTF-8. None if a row has too many or too few fields,
    or a line may end other than by LF or CR LF.
    """
    characters = np.frombuffer(data, dtype=np.uint8)
    places, kinds = marks.places, marks.kinds
    returns = places[kinds == _CR]
    if not len(places) or (len(returns) and (data.endswith(b"\r") or (characters[returns + 1] != _LF).any())):
        return None
    is_quote = kinds == _QUOTE
    is_end = (np.cumsum(is_quote, dtype=np.uint8) & 1 == 0) & ~is_quote & (kinds != _CR)
    ends, ends_row = places[is_end], kinds[is_end] == _LF
    if not data.endswith(b"\n"):
        ends, ends_row = np.append(ends, np.int32(len(data))), np.append(ends_row, True)
    starts = np.concatenate([np.zeros(1, dtype=np.int32), ends[:-1] + 1])
    after_return = ends_row & (ends > starts) & (characters[ends - 1] == _CR)
    ends = ends - after_return
    is_empty_line = ends_row & np.concatenate([[True], ends_row[:-1]]) & (starts == ends)
    starts, ends, ends_row = starts[~is_empty_line], ends[~is_empty_line], ends_row[~is_empty_line]
    width = len(shape.header)
    if not len(ends) or not np.array_equal(np.flatnonzero(ends_row) + 1, np.arange(width, len(ends) + width, width)):
        return None
    is_quoted = (ends > starts) & (characters[np.minimum(starts, len(data) - 1)] == _QUOTE) & shape.quoted
    starts, ends = starts + is_quoted, ends - is_quoted
    spelled = []
    if np.count_nonzero(is_quote) > 2 * np.count_nonzero(is_quoted):
        spelled.append(('""', '"'))
    if len(returns) > np.count_nonzero(after_return) and not shape.keeps_returns:  # lines within a cell end by LF alone
        spelled.append(("\r\n", "\n"))
    columns = []
    for name in names:
        place = shape.header.index(name)
        column = _cells(data, starts[place::width], ends[place::width])
        for pattern, replacement in spelled:
            column = compute.replace_substring(column, pattern=pattern, replacement=replacement)
        columns.append(column)
    return pyarrow.table(columns, names=list(names))


def _cells(data: Bytes, starts: Places, ends: Places) -> pyarrow.Array:
    """Copy the texts from each start to its end: every other segment of the bounds."""
    bounds = np.stack([starts, ends], axis=1).astype(np.int32, copy=False)
    parts = pyarrow.StringArray.from_buffers(bounds.size - 1, pyarrow.py_buffer(bounds), pyarrow.py_buffer(data))
    return parts.take(pyarrow.array(np.arange(0, bounds.size, 2, dtype=np.int32)))
