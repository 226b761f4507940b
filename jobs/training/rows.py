"""Rows of a dataset version: `train.parquet` and `val.parquet` in its folder, with the columns of its kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from backend.errors import NotFound


def split_file(dataset: Path, split: str) -> Path | None:
    """Return a split's file; None if there is no val split. Raises NotFound if the train split is missing."""
    file = dataset / f"{split}.parquet"
    if file.is_file():
        return file
    if split == "train":
        raise NotFound(f"The dataset's folder {dataset} has no train.parquet.", remedy="Import the dataset again.")
    return None


def iterate_rows(file: Path, *, batch: int = 512) -> Iterator[list[dict[str, Any]]]:
    """Yield a file's rows in lists, without reading it whole."""
    for block in pq.ParquetFile(file).iter_batches(batch_size=batch):
        yield block.to_pylist()


def read_rows(dataset: Path, split: str) -> list[dict[str, Any]]:
    """Return all rows of a split; empty if there is no val split."""
    file = split_file(dataset, split)
    return [] if file is None else [row for rows in iterate_rows(file) for row in rows]


def conversation_of(row: dict[str, Any]) -> list[dict[str, str]]:
    """Return an instruction or chat row as messages."""
    if "messages" in row:
        return [{"role": str(message["role"]), "content": str(message["content"] or "")} for message in row["messages"]]
    return [{"role": "user", "content": str(row["prompt"] or "")}, {"role": "assistant", "content": str(row["completion"] or "")}]
