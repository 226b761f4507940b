"""Write canonical rows to `train.parquet` and `val.parquet` in a temporary folder, and publish the folder at once."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import parquet

from backend.domain.row_problem import RowProblem
from backend.domain.rows import DatasetKind, row_text
from backend.errors import Unavailable
from jobs.modeling.dataset_files import Split

GROUP_ROWS, GROUP_BYTES = 2000, 16 * 2**20
MAX_REJECTED_LINES = 100_000
STALE_S = 24 * 3600.0
_TEXT = pyarrow.string()
_CALL = pyarrow.struct([("id", _TEXT), ("type", _TEXT), ("function", pyarrow.struct([("name", _TEXT), ("arguments", _TEXT)]))])
_MESSAGES = pyarrow.list_(
    pyarrow.struct([("role", _TEXT), ("content", _TEXT), ("tool_calls", pyarrow.list_(_CALL)), ("tool_call_id", _TEXT), ("name", _TEXT)])
)
SCHEMAS: dict[DatasetKind, pyarrow.Schema] = {
    DatasetKind.TEXT: pyarrow.schema([("text", _TEXT)]),
    DatasetKind.INSTRUCTION: pyarrow.schema([("prompt", _TEXT), ("completion", _TEXT)]),
    DatasetKind.CHAT: pyarrow.schema([("messages", _MESSAGES), ("tools", _TEXT)]),
    DatasetKind.PREFERENCE: pyarrow.schema([("prompt", _MESSAGES), ("chosen", _MESSAGES), ("rejected", _MESSAGES), ("tools", _TEXT)]),
    DatasetKind.KTO: pyarrow.schema([("prompt", _MESSAGES), ("completion", _MESSAGES), ("label", pyarrow.bool_()), ("tools", _TEXT)]),
    DatasetKind.BENCHMARK: pyarrow.schema(
        [("question", _TEXT), ("choices", pyarrow.list_(_TEXT)), ("answer", pyarrow.int64()), ("answers", pyarrow.list_(_TEXT))]
    ),
    DatasetKind.PROMPTS: pyarrow.schema([("prompt", _TEXT)]),
}


class _SplitFile:
    """One Parquet file that is written a row group at a time."""

    def __init__(self, path: Path, *, schema: pyarrow.Schema) -> None:
        self._schema = schema
        self._writer = parquet.ParquetWriter(path, schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0
        self.count = 0

    def add(self, row: dict[str, Any], *, num_bytes: int) -> None:
        self._rows.append(row)
        self._bytes += num_bytes
        self.count += 1
        if len(self._rows) >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pyarrow.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._bytes = [], 0

    def close(self) -> None:
        self._flush()
        self._writer.close()


class DatasetWriter:
    """Rows on their way into a folder: counts, hash of the content, byte histogram, rejected rows with their reasons."""

    def __init__(self, folder: Path, *, kind: DatasetKind) -> None:
        self._folder = folder
        self._files: dict[str, _SplitFile] = {
            split: _SplitFile(folder / f"{split}.parquet", schema=SCHEMAS[kind]) for split in ("train", "val")
        }
        self._rejected_file = (folder / "rejected.jsonl").open("w", encoding="utf-8")
        self._hash = hashlib.sha256()
        self._histogram = np.zeros(256, dtype=np.int64)
        self.rejected_count = 0
        self.num_rows = 0  # good rows of the source, before any text is cut in two

    def add(self, row: dict[str, Any], *, split: Split) -> None:
        """Write a row to a split."""
        data = row_text(row).encode()
        self._histogram += np.bincount(np.frombuffer(data, dtype=np.uint8), minlength=256)
        self._files[split].add(row, num_bytes=len(data))

    def note(self, text: str) -> None:
        """Let the content hash depend on a text."""
        self._hash.update(text.encode() + b"\n")

    def note_row(self, row_json: str) -> None:
        """Count a good row and let the content hash depend on it."""
        self.num_rows += 1
        self.note(row_json)

    def reject(self, number: int, *, problem: RowProblem) -> None:
        """Note a row that can't be used."""
        self.rejected_count += 1
        if self.rejected_count <= MAX_REJECTED_LINES:
            self._rejected_file.write(json.dumps({"row": number, "reason": problem.reason}) + "\n")

    @property
    def content_hash(self) -> str:
        """SHA-256 (hex) of everything noted so far."""
        return self._hash.hexdigest()

    @property
    def text_bytes(self) -> int:
        """Bytes of text in all rows, as UTF-8."""
        return int(self._histogram.sum())

    def count(self, split: Split) -> int:
        """Rows written to a split."""
        return self._files[split].count

    def byte_entropy_bits(self) -> float:
        """Return the Shannon entropy of single bytes of the text, in bits per byte: what a network must beat to have learned anything."""
        total = self._histogram.sum()
        if total == 0:
            return 0.0
        shares = self._histogram[self._histogram > 0] / total
        return float(-(shares * np.log2(shares)).sum())

    def close(self) -> None:
        """Finish the files."""
        for file in self._files.values():
            file.close()
        self._rejected_file.close()


@contextmanager
def temporary_folder(out_root: Path) -> Iterator[Path]:
    """Make a folder beside the published ones that is gone afterwards unless it has been published.

    Also removes what killed imports left behind a day ago. Raises Unavailable when the disk is full.
    """
    out_root.mkdir(parents=True, exist_ok=True)
    for old in out_root.glob(".importing-*"):
        if time.time() - old.stat().st_mtime > STALE_S:
            shutil.rmtree(old, ignore_errors=True)
    folder = out_root / f".importing-{uuid.uuid4().hex[:12]}"
    folder.mkdir()
    try:
        yield folder
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Unavailable(
                f"The disk that holds {out_root} is full.", remedy="Delete what you no longer need, then import again."
            ) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, *, target: Path) -> bool:
    """Sync a finished folder and rename it to its final name; return False if the same content is there already."""
    for file in folder.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    if (target / "meta.json").is_file():
        return False
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and (target / "meta.json").is_file():
            return False  # another import of the same content was faster
        raise
    return True
