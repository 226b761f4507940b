"""Reading a file of rows holds a row group of it, not the file."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from backend.infra.files.parquet import iter_file_tables


def test_reading_holds_a_few_row_groups_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "train.parquet"
    rows = pa.table({"text": [f"{number} " + "word " * 40 for number in range(4000)]})
    with pq.ParquetWriter(file, rows.schema, compression="none", use_dictionary=False) as out:
        for _ in range(24):
            out.write_table(rows)
    before, largest = pa.total_allocated_bytes(), 0
    for _ in iter_file_tables(file, num_rows=256):
        largest = max(largest, pa.total_allocated_bytes() - before)
    assert largest < file.stat().st_size / 4
