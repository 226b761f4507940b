"""Blocks of whole rows that a source is cut into, and the places between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow

from backend.domain.data.parsing.text_formats import CsvShape, NumberedRow
from jobs.modeling.dataset_files import Split

Bytes = bytes | bytearray


@dataclass(frozen=True)
class Mark:
    """A place between two rows of a source: the member, the bytes (or rows, of a table) of it before this place, the next row's number."""

    member: int = 0
    offset: int = 0
    number: int = 1


@dataclass(frozen=True)
class CsvMarks:
    """Places in a piece of CSV where cells may end or be quoted (int32), and the byte at each (jobs.data.csv_cells)."""

    places: npt.NDArray[np.int32]
    kinds: npt.NDArray[np.uint8]

    def before(self, end: int) -> CsvMarks:
        """Return those before a place."""
        count = int(np.searchsorted(self.places, end))
        return CsvMarks(self.places[:count], self.kinds[:count])


@dataclass(frozen=True)
class Block:
    """Consecutive rows of one file, the first numbered `first`: as bytes to parse, as a table, or as rows that are parsed already.

    `after` is the place where reading continues, `position` the bytes of the source read so far, `side` the split that a source assigns.
    """

    file: str
    suffix: str
    first: int
    after: Mark
    position: int
    data: Bytes = b""
    table: pyarrow.Table | None = None
    rows: tuple[NumberedRow, ...] | None = None
    shape: CsvShape | None = None
    marks: CsvMarks | None = None
    side: Split | None = None
