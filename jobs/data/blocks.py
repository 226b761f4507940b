"""Blocks of complete rows of a source, and the marks between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow

from backend.domain.data.parsing.text_formats import CsvShape, NumberedRow
from backend.domain.data.splits import Split

Bytes = bytes | bytearray


@dataclass(frozen=True)
class SourcePosition:
    """A position between two rows of a source: the member, its bytes (or rows, of a table) before it, the next row's
    number.
    """

    member: int = 0
    offset: int = 0
    number: int = 1


@dataclass(frozen=True)
class CsvMarks:
    """Positions of quotes, delimiters and line ends in a piece of CSV (int32), and the byte at each."""

    places: npt.NDArray[np.int32]
    kinds: npt.NDArray[np.uint8]

    @property
    def num_rows(self) -> int:
        """Number of row ends: line feeds outside quotes, but for those of empty lines."""
        outside = np.cumsum(self.kinds == 0x22, dtype=np.uint8) & 1 == 0
        ends = self.places[outside & (self.kinds == 0x0A)]
        lengths = np.diff(ends, prepend=-1) - 1
        returns = np.isin(ends[lengths == 1] - 1, self.places[self.kinds == 0x0D])
        return len(ends) - int(np.count_nonzero(lengths == 0)) - int(np.count_nonzero(returns))

    def before(self, end: int) -> CsvMarks:
        """Return the marks before a position."""
        count = int(np.searchsorted(self.places, end))
        return CsvMarks(self.places[:count], self.kinds[:count])


@dataclass(frozen=True)
class RowBlock:
    """Consecutive rows of one file, the first numbered `first`: as bytes to parse, as a table, or as parsed rows.
    `after` is where reading continues, `position` the bytes of the source read so far, `side` the split assigned by the
    source.
    """

    file: str
    suffix: str
    first: int
    after: SourcePosition
    position: int
    data: Bytes = b""
    table: pyarrow.Table | None = None
    rows: tuple[NumberedRow, ...] | None = None
    shape: CsvShape | None = None
    marks: CsvMarks | None = None
    side: Split | None = None
