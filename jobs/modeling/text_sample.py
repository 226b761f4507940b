"""Text of a dataset's rows, whatever their kind, read in bounded memory: all of it, or rows spread evenly over the whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from backend.domain.data.rows.display import row_text

BATCH_ROWS = 64
LONGEST_PART = 1_000_000
"""Characters that are handed out at once; a longer row, such as a whole book, comes in parts."""


class TextSample:
    """Iterates over the texts of one split, about `max_bytes` of them; afterwards `rows` and `bytes` say how much that was.

    Where the split is larger, every n-th row is taken. May be iterated again: it yields the same. Memory is bounded by a few rows.
    """

    def __init__(self, file: Path, *, max_bytes: int, max_rows: int | None = None, watch: Callable[[int, int], None] | None = None) -> None:
        """`watch` is called with rows passed and rows in all, every 64 rows; what it raises ends the reading."""
        self._file, self._max_bytes, self._max_rows, self._watch = file, max_bytes, max_rows, watch
        metadata = pq.ParquetFile(file).metadata
        self.total_rows = int(metadata.num_rows)
        size = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
        wanted = [size / max_bytes, *([self.total_rows / max_rows] if max_rows else [])]
        self.every = max(1, math.ceil(max(wanted)))
        self.rows, self.bytes = 0, 0

    def __iter__(self) -> Iterator[str]:
        self.rows, self.bytes = 0, 0
        passed = 0
        for block in pq.ParquetFile(self._file).iter_batches(batch_size=BATCH_ROWS, use_threads=False):
            if self._watch is not None:
                self._watch(passed, self.total_rows)
            wanted = pa.array(range(-passed % self.every, block.num_rows, self.every), type=pa.int64())
            passed += block.num_rows
            for row in block.take(wanted).to_pylist():
                text = row_text(row)
                if not text:
                    continue
                self.rows += 1
                for start in range(0, len(text), LONGEST_PART):
                    if self.bytes >= self._max_bytes:
                        return
                    part = text[start : start + LONGEST_PART]
                    self.bytes += len(part.encode())
                    yield part
                if self.rows == self._max_rows:
                    return
