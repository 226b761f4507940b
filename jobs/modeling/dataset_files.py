"""Read a dataset version: a folder with `train.parquet`, `val.parquet`, `rejected.jsonl` and `meta.json`. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow

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
