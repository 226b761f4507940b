"""Open a file and stream its rows, with a position to show progress by. Parsing is backend.domain.row_readers'."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow
from pyarrow import parquet

from backend.domain.row_problem import RowProblem
from backend.domain.row_readers import NumberedRow, iter_rows_of, suffix_of
from backend.errors import InvalidInput, NotFound

CHUNK_BYTES = 2**20
PARQUET_BATCH = 256


class RowSource:
    """The rows of one file. Iterate once; `position` of `size` says how far the reading is (bytes, or rows of a Parquet file)."""

    def __init__(self, path: Path, *, lines_are_prompts: bool = False) -> None:
        """Check what can be checked at once.

        Raises InvalidInput for an unknown suffix or an empty file, NotFound if there is no such file.
        """
        self.path = path
        self.suffix, self._packed = suffix_of(path.name)
        self._lines_are_prompts = lines_are_prompts
        if not path.is_file():
            raise NotFound(f"There is no file {path}.", remedy="Upload it again.")
        self.size, self.position = path.stat().st_size, 0
        if self.size == 0:
            raise InvalidInput(f"The file {path.name!r} is empty.", field="source")

    def __iter__(self) -> Iterator[NumberedRow]:
        if self.suffix == ".parquet":
            return self._parquet_rows()
        return iter_rows_of(self.suffix, self._chunks(), lines_are_prompts=self._lines_are_prompts)

    def _chunks(self) -> Iterator[bytes]:
        with self.path.open("rb") as raw:
            stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if self._packed else raw
            while True:
                try:
                    chunk = stream.read(CHUNK_BYTES)
                except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                    raise InvalidInput(
                        f"The compressed file {self.path.name!r} is damaged or cut off: {error}.", remedy="Upload it again.", field="source"
                    ) from None
                self.position = raw.tell()
                if not chunk:
                    return
                yield chunk

    def _parquet_rows(self) -> Iterator[NumberedRow]:
        try:
            file = parquet.ParquetFile(self.path)
            self.size = file.metadata.num_rows
            for batch in file.iter_batches(batch_size=PARQUET_BATCH, use_threads=False):
                yield from self._batch_rows(batch)
        except (pyarrow.ArrowException, OSError) as error:
            raise InvalidInput(
                f"The file {self.path.name!r} can't be read as Parquet (after row {self.position}): {str(error)[:300]}", field="source"
            ) from None

    def _batch_rows(self, batch: pyarrow.RecordBatch) -> Iterator[NumberedRow]:
        for index in range(batch.num_rows):
            self.position += 1
            try:
                yield self.position, batch.slice(index, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                yield self.position, RowProblem(f"the row is not UTF-8 ({error.reason})")
