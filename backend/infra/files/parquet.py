"""Read Parquet, of versions and sources, in bounded memory: sequentially, one page, or some rows by number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow
import pyarrow.parquet

from backend.domain.data.rows.columns import table_columns
from backend.domain.data.rows.mapping import clean_row
from backend.domain.json_values import Row
from backend.errors import InvalidInput

BATCH_ROWS = 256
BUFFER_BYTES = 2**20


def count_rows(file: Path) -> int:
    """Count a file's rows from its footer alone."""
    return int(pyarrow.parquet.read_metadata(file).num_rows)


def count_bytes(file: Path) -> int:
    """Return the uncompressed size of a file's columns, from its footer alone."""
    metadata = pyarrow.parquet.read_metadata(file)
    return sum(int(metadata.row_group(group).total_byte_size) for group in range(metadata.num_row_groups))


def read_schema(file: Path) -> pyarrow.Schema:
    """Return a file's columns."""
    return pyarrow.parquet.read_schema(file)


def first_rows(file: BinaryIO, *, limit: int) -> list[Row]:
    """Return the first rows of a file object that can seek, as stored. Raises InvalidInput if it is not Parquet."""
    try:
        with pyarrow.parquet.ParquetFile(file) as source:
            rows: list[Row] = next((batch.to_pylist() for batch in source.iter_batches(batch_size=limit)), [])
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"The file is not readable as Parquet: {error}",
            remedy="It may have been truncated in transfer: copy or export it again.",
            field="source",
        ) from None
    return rows[:limit]


def source_batches(
    file: Path, *, columns: Sequence[str], batch_bytes: int
) -> tuple[Iterator[pyarrow.RecordBatch], int]:
    """Return batches of about `batch_bytes` of a source, and its number of rows; only `columns`, if all of them exist.
    Column chunks are not pre-buffered, so a large row group is never in memory at once. Raises pyarrow's errors.
    """
    source = pyarrow.parquet.ParquetFile(file, pre_buffer=False, buffer_size=2**20)
    num_rows, names = source.metadata.num_rows, source.schema_arrow.names
    size = sum(source.metadata.row_group(group).total_byte_size for group in range(source.num_row_groups))
    rows = min(8192, max(16, batch_bytes * num_rows // max(1, size)))
    chosen = table_columns(columns, names)
    return _closing(source, source.iter_batches(batch_size=rows, columns=chosen, use_threads=False)), num_rows


def _closing(
    source: pyarrow.parquet.ParquetFile, batches: Iterator[pyarrow.RecordBatch]
) -> Iterator[pyarrow.RecordBatch]:
    with source:
        yield from batches


def iter_row_groups(file: Path) -> Iterator[pyarrow.Table]:
    """Yield a file's row groups as tables."""
    with pyarrow.parquet.ParquetFile(file, pre_buffer=False) as source:
        for group in range(source.num_row_groups):
            yield source.read_row_group(group, use_threads=False)


def iter_file_tables(file: Path, *, num_rows: int, below: int | None = None) -> Iterator[pyarrow.Table]:
    """Yield a file's rows as stored, at most `num_rows` at a time; with `below` those of the first row groups, as far
    as they lie within this many bytes.
    """
    with pyarrow.parquet.ParquetFile(file, pre_buffer=False) as source:  # a buffer would hold the whole file by its end
        groups = None if below is None else _groups_within(source.metadata, below)
        for batch in source.iter_batches(batch_size=num_rows, row_groups=groups, use_threads=False):
            yield pyarrow.Table.from_batches([batch])


def _groups_within(metadata: pyarrow.parquet.FileMetaData, below: int) -> list[int]:
    """Return the first row groups of which all columns end before a byte."""
    groups: list[int] = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for index in range(group.num_columns):
            column = group.column(index)
            start = min(filter(None, (column.dictionary_page_offset, column.data_page_offset)), default=0)
            if start + column.total_compressed_size > below:
                return groups
        groups.append(number)
    return groups


def iter_file_rows(file: Path) -> Iterator[Row]:
    """Yield a file's rows as canonical rows (see data/rows/mapping.py): without the columns that a row lacks."""
    for table in iter_file_tables(file, num_rows=BATCH_ROWS):
        for row in table.to_pylist():
            yield clean_row(row)


def fetch_rows(file: Path, numbers: Sequence[int]) -> dict[int, Row]:
    """Return some canonical rows by number, counted from 0, reading only the row groups that hold them."""
    rows: dict[int, Row] = {}
    with pyarrow.parquet.ParquetFile(file) as source:
        end = 0
        for group in range(source.num_row_groups):
            first, end = end, end + source.metadata.row_group(group).num_rows
            in_group = [number for number in numbers if first <= number < end]
            if not in_group:
                continue
            for batch in source.iter_batches(batch_size=BATCH_ROWS, row_groups=[group], use_threads=False):
                for number in in_group:
                    if first <= number < first + batch.num_rows:
                        rows[number] = clean_row(batch.slice(number - first, 1).to_pylist()[0])
                first += batch.num_rows
    return rows


def read_row_page(folder: Path, *, split: str, offset: int = 0, limit: int = 20) -> list[Row]:
    """Return a page of one split of a version (`<folder>/<split>.parquet`) as canonical rows; empty without."""
    path = folder / f"{split}.parquet"
    if not path.is_file():
        return []
    with path.open("rb") as file:
        return read_some_rows(file, offset=offset, limit=limit)


def read_some_rows(file: BinaryIO, *, offset: int = 0, limit: int) -> list[Row]:
    """Return canonical rows of a file object that can seek, of which little more than these rows is read."""
    with pyarrow.parquet.ParquetFile(file, pre_buffer=False, buffer_size=BUFFER_BYTES) as source:
        rows = [row for _, row in zip(range(limit), _rows_from(source, offset), strict=False)]
    return [clean_row(row) for row in rows]


def _rows_from(file: pyarrow.parquet.ParquetFile, offset: int) -> Iterator[Row]:
    """Yield rows from the `offset`-th on, skipping whole row groups unread."""
    skip = offset
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        if skip >= count:
            skip -= count
            continue
        for batch in file.iter_batches(batch_size=64, row_groups=[group], use_threads=False):
            start = min(skip, batch.num_rows)
            skip -= start
            yield from batch.slice(start).to_pylist()


def write_rows(file: Path, rows: Sequence[Row]) -> int:
    """Write rows to a new file; columns are those of all rows. Returns its size in bytes."""
    columns = dict.fromkeys(name for row in rows for name in row)
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([{name: row.get(name) for name in columns} for row in rows]), file
    )
    return file.stat().st_size
