"""Read an imported dataset: a folder with `train.parquet`, `val.parquet`, `rejected.jsonl` and `meta.json`. Knows no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow
from pyarrow import parquet

from backend.domain.data.rows.mapping import clean_row
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
    """Yield the canonical rows of a split (backend.domain.data.rows.mapping says what they look like), in the order of the source.

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


Row = dict[str, Any]


def split_file(dataset: Path, split: Split) -> Path | None:
    """Return a split's file; None if there is no val split. Raises NotFound if the train split is missing."""
    file = dataset / f"{split}.parquet"
    if file.is_file():
        return file
    if split == "train":
        raise NotFound(f"The dataset's folder {dataset} has no train.parquet.", remedy="Import the dataset again.")
    return None


def iterate_rows(dataset: Path, split: Split, *, batch: int = 512) -> Iterator[list[Row]]:
    """Yield a split's rows in lists, without reading it whole."""
    rows = iter_rows(dataset, split=split)
    while block := list(islice(rows, batch)):
        yield block


def read_rows(dataset: Path, split: Split) -> list[Row]:
    """Return all rows of a split; empty if there is no val split."""
    return [] if split_file(dataset, split) is None else list(iter_rows(dataset, split=split))
