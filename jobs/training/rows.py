"""Rows of a dataset version: `train.parquet` and `val.parquet` in its folder, with the columns of its kind."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from backend.errors import NotFound
from jobs.modeling.dataset_files import Split, iter_rows

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
