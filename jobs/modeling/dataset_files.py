"""Read a dataset version, a folder with `train.parquet`, `val.parquet`, `rejected.jsonl` and `meta.json`; and sample
the text of its rows, of any kind, in bounded memory: all rows, or rows spread evenly. No torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow

from backend.domain.data.rows.display import row_text
from backend.domain.data.splits import Split
from backend.domain.json_values import Row
from backend.errors import NotFound
from backend.infra.files import parquet


def split_file(folder: Path, split: Split) -> Path | None:
    """Return a split's file; None if there is no val split. Raises NotFound if the train split is missing."""
    file = folder / f"{split}.parquet"
    return None if split == "val" and not file.is_file() else _require(file)


def _require(file: Path) -> Path:
    if not file.is_file():
        raise NotFound(f"The dataset folder {file.parent} has no {file.name}.", remedy="Import the dataset again.")
    return file


def read_meta(folder: Path) -> dict[str, object]:
    """Return the import's record: kind, mapping, counts, hash, ... Raises NotFound if the folder holds no dataset."""
    path = folder / "meta.json"
    if not path.is_file():
        raise NotFound(
            f"The folder {folder} holds no dataset: meta.json is missing.", remedy="Import the dataset again."
        )
    meta: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return meta


def num_rows(folder: Path, *, split: Split) -> int:
    """Count the rows of a split from the file's footer alone. Raises NotFound if the split's file is missing."""
    return parquet.count_rows(_require(folder / f"{split}.parquet"))


def iter_rows(folder: Path, *, split: Split) -> Iterator[Row]:
    """Yield the canonical rows of a split in order, in bounded memory. Raises NotFound without the split's file."""
    return parquet.iter_file_rows(_require(folder / f"{split}.parquet"))


def iter_tables(folder: Path, *, split: Split, num_rows: int = 4096) -> Iterator[pyarrow.Table]:
    """Yield the rows of a split as stored, `num_rows` at a time. Raises NotFound if the split's file is missing."""
    return parquet.iter_file_tables(_require(folder / f"{split}.parquet"), num_rows=num_rows)


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
        self.total_rows = parquet.count_rows(file)
        ratios = [parquet.count_bytes(file) / max_bytes, *([self.total_rows / max_rows] if max_rows else [])]
        self.every = max(1, math.ceil(max(ratios)))
        self.rows, self.bytes = 0, 0

    def __iter__(self) -> Iterator[str]:
        self.rows, self.bytes = 0, 0
        passed = 0
        for table in parquet.iter_file_tables(self._file, num_rows=BATCH_ROWS):
            if self._watch is not None:
                self._watch(passed, self.total_rows)
            sampled = pyarrow.array(range(-passed % self.every, table.num_rows, self.every), type=pyarrow.int64())
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
