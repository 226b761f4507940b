"""Read an imported dataset: a folder with `train.parquet`, `val.parquet`, `rejected.jsonl` and `meta.json`. Knows no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow
from pyarrow import parquet

from backend.domain.rows import clean_row
from backend.errors import NotFound

Split = Literal["train", "val"]


def _file(folder: Path, *, split: Split) -> Path:
    path = folder / f"{split}.parquet"
    if not path.is_file():
        raise NotFound(f"The dataset folder {folder} has no {split}.parquet.", remedy="Import the dataset again.")
    return path


def read_meta(folder: Path) -> dict[str, Any]:
    """Return what the import noted: kind, mapping, counts, hash, ... Raises NotFound if the folder holds no dataset."""
    path = folder / "meta.json"
    if not path.is_file():
        raise NotFound(f"The folder {folder} holds no dataset: meta.json is missing.", remedy="Import the dataset again.")
    meta: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return meta


def num_rows(folder: Path, *, split: Split) -> int:
    """Count the rows of a split from the file's footer alone."""
    return int(parquet.read_metadata(_file(folder, split=split)).num_rows)


def iter_rows(folder: Path, *, split: Split) -> Iterator[dict[str, Any]]:
    """Yield the canonical rows of a split (backend.domain.rows says what they look like), in the order of the source.

    Columns and fields that a row does not have (a benchmark's `choices` beside another's `answers`) are left out of it. Memory is bounded by a few
    hundred rows. Raises NotFound if the split's file is missing.
    """
    for table in iter_tables(folder, split=split, num_rows=256):
        for row in table.to_pylist():
            yield clean_row(row)


def iter_tables(folder: Path, *, split: Split, num_rows: int = 4096) -> Iterator[pyarrow.Table]:
    """Yield the rows of a split as stored, `num_rows` at a time. Raises NotFound if the split's file is missing."""
    for batch in parquet.ParquetFile(_file(folder, split=split)).iter_batches(batch_size=num_rows, use_threads=False):
        yield pyarrow.Table.from_batches([batch])
