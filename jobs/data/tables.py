"""Cut tables (Parquet, Arrow) into blocks; a mark in a table is its row."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow
from pyarrow import ipc

from backend.domain.data.rows.columns import table_columns
from backend.errors import InvalidInput
from backend.infra.files.local import Member
from backend.infra.files.parquet import source_batches
from jobs.data.blocks import RowBlock, SourcePosition

TABLE_BYTES = 2 * 2**20
UNPACKED = ".unpacked-"


@contextmanager
def on_disk(member: Member) -> Iterator[Path]:
    """Lend a seekable file: a member of a zip is extracted for that."""
    if not member.entry:
        yield member.path
        return
    with tempfile.NamedTemporaryFile(dir=_beside(member.path), prefix=UNPACKED) as file, member.open() as opened:
        while data := opened.read(2**20):
            file.write(data)
        file.flush()
        yield Path(file.name)


def folder_beside(path: Path, *, owner: object) -> Path:
    """Return a new folder for what is unpacked of a zip; it goes with its owner."""
    folder = Path(tempfile.mkdtemp(dir=_beside(path), prefix=UNPACKED))
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    return folder


def _beside(path: Path) -> Path | None:
    return path.parent if os.access(path.parent, os.W_OK) else None  # the data folder may be read-only


def table_blocks(
    member: Member, path: Path, mark: SourcePosition, columns: tuple[str, ...], size: int
) -> Iterator[RowBlock]:
    """Yield batches of about `size` bytes of a Parquet or Arrow file."""
    done = 0
    try:
        batches, total = (
            source_batches(path, columns=columns, batch_bytes=size)
            if member.suffix == ".parquet"
            else _arrow_batches(path, columns, size)
        )
        for batch in batches:
            start, done = done, done + batch.num_rows
            if done <= mark.offset:
                continue
            table = pyarrow.Table.from_batches([batch]).slice(max(0, mark.offset - start))
            position = member.bytes * done // max(1, total or done) if total else member.bytes
            yield RowBlock(
                "", ".table", max(start, mark.offset) + 1, SourcePosition(0, done, done + 1), position, table=table
            )
    except (pyarrow.ArrowException, OSError) as error:
        format = "Parquet" if member.suffix == ".parquet" else "Arrow"
        raise InvalidInput(
            f"The file {member.name!r} can't be read as {format} (after row {done:,}): {str(error)[:300]}",
            remedy="Write it again; it may have been truncated in transfer.",
            field="source",
        ) from None


def _arrow_batches(path: Path, columns: tuple[str, ...], size: int) -> tuple[Iterator[pyarrow.RecordBatch], int]:
    """Yield batches of an IPC file (Feather 2) or stream (as `datasets` saves).

    The number of rows of a stream is unknown before its end.
    """
    file = pyarrow.OSFile(str(path))
    try:
        ipc_file = ipc.open_file(file)
        batches: Iterator[pyarrow.RecordBatch] = (
            ipc_file.get_batch(place) for place in range(ipc_file.num_record_batches)
        )
        names = ipc_file.schema.names
    except pyarrow.ArrowInvalid:
        file.seek(0)
        stream = ipc.open_stream(file)
        batches, names = iter(stream), stream.schema.names
    chosen = table_columns(columns, names)
    return (part for batch in batches for part in _smaller(batch.select(chosen) if chosen else batch, size)), 0


def _smaller(batch: pyarrow.RecordBatch, size: int) -> Iterator[pyarrow.RecordBatch]:
    rows = max(16, min(8192, batch.num_rows * size // max(1, batch.nbytes)))
    return (batch.slice(start, rows) for start in range(0, batch.num_rows, rows))
