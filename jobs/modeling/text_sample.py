"""Sample the text of a dataset's rows, of any kind, in bounded memory: all rows, or rows spread evenly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

from backend.domain.data.rows.display import row_text
from backend.infra.files.parquet import count_bytes, count_rows, iter_file_tables

BATCH_ROWS = 64
MAX_CHARACTERS = 1_000_000
"""Longest text yielded at once; a longer row, such as a whole book, comes in parts."""


class TextSample:
    """Iterate over the texts of one split up to about `max_bytes`; `rows` and `bytes` then hold the size of the sample.

    If the split is larger, every n-th row is taken. Iterating again yields the same texts. Memory is bounded by a few
    rows.
    """

    def __init__(
        self,
        file: Path,
        *,
        max_bytes: int,
        max_rows: int | None = None,
        watch: Callable[[int, int], None] | None = None,
    ) -> None:
        """Call `watch` every 64 rows with the rows read and the total; an exception from it ends the iteration."""
        self._file, self._max_bytes, self._max_rows, self._watch = file, max_bytes, max_rows, watch
        self.total_rows = count_rows(file)
        ratios = [count_bytes(file) / max_bytes, *([self.total_rows / max_rows] if max_rows else [])]
        self.every = max(1, math.ceil(max(ratios)))
        self.rows, self.bytes = 0, 0

    def __iter__(self) -> Iterator[str]:
        self.rows, self.bytes = 0, 0
        passed = 0
        for table in iter_file_tables(self._file, num_rows=BATCH_ROWS):
            if self._watch is not None:
                self._watch(passed, self.total_rows)
            sampled = pa.array(range(-passed % self.every, table.num_rows, self.every), type=pa.int64())
            passed += table.num_rows
            for row in table.take(sampled).to_pylist():
                text = row_text(row)
                if not text:
                    continue
                self.rows += 1
                for start in range(0, len(text), MAX_CHARACTERS):
                    if self.bytes >= self._max_bytes:
                        return
                    part = text[start : start + MAX_CHARACTERS]
                    self.bytes += len(part.encode())
                    yield part
                if self.rows == self._max_rows:
                    return
