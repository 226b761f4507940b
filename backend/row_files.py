"""Looking into files of rows without reading all of them: the head of an upload, a page of a version's Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet

from backend.domain.row_readers import sniff_bytes, sniff_parquet, suffix_of
from backend.domain.rows import clean_row
from backend.errors import InvalidInput

HEAD_BYTES = 2 * 2**20

Row = dict[str, Any]


def read_head(path: Path, *, limit: int = 50) -> list[Row]:
    """Return the first good rows of a file as records of columns, from its first 2 MiB at most.

    Raises InvalidInput if the file is empty, holds no row, or is not what its ending says.
    """
    suffix, _ = suffix_of(path.name)
    with path.open("rb") as file:
        rows = sniff_parquet(file, limit=limit) if suffix == ".parquet" else sniff_bytes(path.name, file.read(HEAD_BYTES), limit=limit)
    if not rows:
        raise InvalidInput(f"No row of {path.name} can be read.", remedy="It must be text, or a list of records.", field="file")
    return rows


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
