"""A page of rows of a version's Parquet, without reading the rest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet

from backend.domain.data.rows.mapping import clean_row

Row = dict[str, Any]


def read_rows(folder: Path, *, split: str, offset: int = 0, limit: int = 20) -> list[Row]:
    """Return some rows of one split of a version (`<folder>/<split>.parquet`), without loading the rest.

    Columns that a row does not have are left out of it.
    """
    path = folder / f"{split}.parquet"
    if not path.is_file():
        return []
    with pyarrow.parquet.ParquetFile(path) as file:
        rows = [row for _, row in zip(range(limit), _rows_from(file, offset), strict=False)]
    return [clean_row(row) for row in rows]


def _rows_from(file: pyarrow.parquet.ParquetFile, offset: int) -> Iterator[Row]:
    """Yield rows from the `offset`-th on, skipping whole row groups unread."""
    skip = offset
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        if skip >= count:
            skip -= count
            continue
        for batch in file.iter_batches(batch_size=64, row_groups=[group]):
            start = min(skip, batch.num_rows)
            skip -= start
            yield from batch.slice(start).to_pylist()
