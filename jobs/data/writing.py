"""Write canonical rows to `train.parquet` and `val.parquet` in a temporary folder, published atomically."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import time
import uuid
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow
from blake3 import blake3
from pyarrow import compute, parquet

from backend.domain.data.kinds import DatasetKind
from backend.domain.data.rows.problem import BadRow, RejectedRow, RejectReason, count_reason
from backend.domain.data.splits import SPLITS, Split
from backend.domain.json_values import Row
from backend.errors import Unavailable
from jobs.data.row_keys import RowKeys, one_array, string_parts
from jobs.data.schemas import SCHEMAS
from jobs.modeling.publishing import sync

GROUP_ROWS, GROUP_BYTES = 4096, 16 * 2**20  # a row group of Parquet
LEAF_ROWS, LEAF_BYTES = 8192, 64 * 2**20  # rows hashed together; an import can be interrupted between two leaves
COUNTED_AT_FIRST, THEN_ONE_IN = 2**20, 16  # bytes counted in full; beyond, every n-th leaf is counted
NOTES_AHEAD = 4  # blocks that wait to be hashed
COUNTED_BYTES = 2**18  # per column, in leaves beyond those
MAX_REJECTED_BYTES = 256 * 2**20
SHOWN_REJECTED, SHOWN_RAW, LISTED_RAW = 200, 120, 2000
STALE_S = 24 * 3600.0
_UNCOUNTED = frozenset({"role", "tools", "id", "type", "tool_call_id", "name"})


class SplitFile:
    """One Parquet file, written a row group at a time by its own thread, since compression releases the GIL. A second
    thread syncs written data to disk, which shortens the final sync.
    """

    def __init__(self, path: Path, *, kind: DatasetKind) -> None:
        schema = SCHEMAS[kind]
        roles = [f"{field.name}.list.element.role" for field in schema if field.name not in ("choices", "answers")]
        self._writer = parquet.ParquetWriter(
            path,
            schema,
            compression="none",
            use_dictionary=roles,
            write_statistics=False,
            write_batch_size=2 * GROUP_ROWS,
        )
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="write")
        self._written: Future[None] | None = None
        self._syncing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sync")
        self._synced: Future[None] | None = None
        self._path = path
        self._tables: list[pyarrow.Table] = []
        self._rows = self._bytes = 0

    def add(self, table: pyarrow.Table) -> None:
        """Add rows; they are written once there are enough for a row group."""
        self._tables.append(table)
        self._rows += table.num_rows
        self._bytes += table.nbytes
        if self._rows >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        self._wait()
        if self._rows:
            self._written = self._pool.submit(self._write, self._tables)
        self._tables, self._rows, self._bytes = [], 0, 0

    def _write(self, tables: list[pyarrow.Table]) -> None:
        self._writer.write_table(pyarrow.concat_tables(tables), row_group_size=2 * GROUP_ROWS)
        if self._synced is None or self._synced.done():
            self._wait_for_disk()
            self._synced = self._syncing.submit(sync, self._path)

    def _wait_for_disk(self) -> None:
        synced, self._synced = self._synced, None
        if synced is not None:
            synced.result()

    def _wait(self) -> None:
        """Wait for the row group being written, one at a time. Raises its error."""
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def close(self) -> None:
        """Finish the file."""
        try:
            self._flush()
            self._wait()
        finally:
            self._pool.shutdown()
            self._syncing.shutdown()
            self._writer.close()
        self._wait_for_disk()


@dataclass
class VersionTally:
    """Counts over all rows of a version, resumable from a file."""

    leaves: list[str] = field(default_factory=list)
    rows: int = 0
    train_rows: int = 0
    val_rows: int = 0
    text_bytes: int = 0
    histogram: list[int] = field(default_factory=lambda: [0] * 256)
    rejected_count: int = 0
    rejected_bytes: int = 0
    rejected: list[RejectedRow] = field(default_factory=list)
    reasons: dict[str, RejectReason] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    """Rows that filters left out, by reason."""

    def byte_entropy_bits(self) -> float:
        """Return the Shannon entropy of single bytes of the text, in bits per byte: the baseline for bits per byte."""
        counts = np.array(self.histogram, dtype=np.float64)
        if not counts.any():
            return 0.0
        shares = counts[counts > 0] / counts.sum()
        return float(-(shares * np.log2(shares)).sum())


class Leaf:
    """The hash of up to LEAF_ROWS consecutive rows: BLAKE3 of their lengths and bytes, independent of batching."""

    def __init__(self) -> None:
        self._lengths, self._data = blake3(), blake3()
        self.rows = self.bytes = 0

    def room(self, lengths: npt.NDArray[np.int64]) -> int:
        """Return how many of the next rows belong to this leaf."""
        by_bytes = int(np.searchsorted(np.cumsum(lengths), LEAF_BYTES - self.bytes, side="left")) + 1
        return min(len(lengths), LEAF_ROWS - self.rows, by_bytes)

    def add(self, keys: RowKeys, start: int, stop: int) -> None:
        """Add rows."""
        self._lengths.update(np.diff(keys.offsets[start : stop + 1]).astype("<i8").tobytes())
        first, last = int(keys.offsets[start]), int(keys.offsets[stop])
        self._data.update(keys.data[first:last])
        self.rows += stop - start
        self.bytes += last - first

    @property
    def is_full(self) -> bool:
        """Return whether the leaf is full."""
        return self.rows >= LEAF_ROWS or self.bytes >= LEAF_BYTES

    def hexdigest(self) -> str:
        """The hash of the rows so far."""
        return blake3(self._lengths.digest() + self._data.digest()).hexdigest()


class DatasetWriter:
    """Writes rows to a folder, with counts, content hash, byte histogram, and rejected rows with their reasons."""

    def __init__(self, folder: Path, *, kind: DatasetKind, tally: VersionTally | None = None) -> None:
        self._schema = SCHEMAS[kind]
        self._files: dict[str, SplitFile] = {
            split: SplitFile(folder / f"{split}.parquet", kind=kind) for split in SPLITS
        }
        self._rejected_file = (folder / "rejected.jsonl").open("w", encoding="utf-8")
        self._hash = hashlib.sha256()
        self._leaf = Leaf()
        self._noting = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hash")
        self._noted: deque[Future[None]] = deque()
        self._waiting: dict[str, list[dict[str, object]]] = {"train": [], "val": []}
        self.tally = tally or VersionTally()

    def note(self, text: str) -> None:
        """Add a text to the content hash."""
        self._hash.update(text.encode() + b"\n")

    def note_rows(self, table: pyarrow.Table, keys: RowKeys) -> None:
        """Count good rows and their text, and add them to the content hash, in order. Runs in a thread, since hashing
        releases the GIL.
        """
        self._noted.append(self._noting.submit(self._note_rows, table, keys))
        self._wait_for_notes(NOTES_AHEAD)

    def _wait_for_notes(self, most: int = 0) -> None:
        """Wait until at most `most` batches are pending."""
        while len(self._noted) > most:
            self._noted.popleft().result()

    def _note_rows(self, table: pyarrow.Table, keys: RowKeys) -> None:
        self._count_bytes(table)
        lengths, start = keys.lengths(), 0
        while start < len(keys):
            stop = start + self._leaf.room(lengths[start:])
            self._leaf.add(keys, start, stop)
            self.tally.rows += stop - start
            start = stop
            if self._leaf.is_full:
                self.tally.leaves.append(self._leaf.hexdigest())
                self._leaf = Leaf()

    def leaf_room(self, keys: RowKeys) -> int:
        """Return how many of some rows the open leaf takes until it is full; all of them if it stays open."""
        self._wait_for_notes()
        return self._leaf.room(keys.lengths())

    @property
    def is_between_leaves(self) -> bool:
        """Return whether no leaf is open, so that an import can be interrupted."""
        self._wait_for_notes()
        return not self._leaf.rows

    def add_table(self, table: pyarrow.Table, *, split: Split) -> None:
        """Write already counted canonical rows (columns as in SCHEMAS) to a split."""
        if not table.num_rows:
            return
        self._files[split].add(table)
        if split == "train":
            self.tally.train_rows += table.num_rows
        else:
            self.tally.val_rows += table.num_rows

    def _count_bytes(self, table: pyarrow.Table) -> None:
        counted = sum(self.tally.histogram)
        is_counted = counted < COUNTED_AT_FIRST or len(self.tally.leaves) % THEN_ONE_IN == 0
        for name, column in zip(table.column_names, table.columns, strict=True):
            for texts in _texts(name, one_array(column)):
                data = np.frombuffer(string_parts(texts)[1], dtype=np.uint8)
                self.tally.text_bytes += len(data)
                if is_counted:
                    counts = _byte_counts(data[: max(COUNTED_BYTES, COUNTED_AT_FIRST - counted)])
                    self.tally.histogram = (np.array(self.tally.histogram) + counts).tolist()

    def note_row(self, row_json: str) -> None:
        """Count a good row and add it to the content hash."""
        self.tally.rows += 1
        self.note(row_json)

    def add(self, row: Row, *, split: Split) -> None:
        """Write one row to a split."""
        waiting = self._waiting[split]
        waiting.append(row)
        if len(waiting) >= 1000:
            self._add_waiting(split)

    def _add_waiting(self, split: Split) -> None:
        rows, self._waiting[split] = self._waiting[split], []
        table = pyarrow.Table.from_pylist(rows, schema=self._schema)
        self._count_bytes(table)
        self.add_table(table, split=split)

    def reject(self, bad: BadRow) -> None:
        """Record a rejected row."""
        self.tally.rejected_count += 1
        count_reason(self.tally.reasons, bad.as_dict(raw=0))
        if len(self.tally.rejected) < SHOWN_REJECTED:
            self.tally.rejected.append(bad.as_dict(raw=SHOWN_RAW))
        if self.tally.rejected_bytes < MAX_REJECTED_BYTES:
            line = json.dumps(bad.as_dict(raw=LISTED_RAW)) + "\n"
            self.tally.rejected_bytes += len(line)
            self._rejected_file.write(line)

    @property
    def content_hash(self) -> str:
        """SHA-256 (hex) of all rows so far."""
        digest = self._hash.copy()
        digest.update("".join([*self.tally.leaves, self._leaf.hexdigest() if self._leaf.rows else ""]).encode())
        return digest.hexdigest()

    @property
    def num_rows(self) -> int:
        """Good rows of the source, before cutting texts."""
        return self.tally.rows

    @property
    def text_bytes(self) -> int:
        """Bytes of text in all rows, as UTF-8."""
        return self.tally.text_bytes

    def count(self, split: Split) -> int:
        """Rows written to a split."""
        return (self.tally.train_rows if split == "train" else self.tally.val_rows) + len(self._waiting[split])

    def byte_entropy_bits(self) -> float:
        """Return the Shannon entropy of single bytes of the text, in bits per byte."""
        return self.tally.byte_entropy_bits()

    def close(self) -> None:
        """Finish the files and the hash."""
        for split in SPLITS:
            if self._waiting[split]:
                self._add_waiting(split)
        with ThreadPoolExecutor(max_workers=len(self._files)) as pool:
            list(pool.map(SplitFile.close, self._files.values()))
        self._rejected_file.close()
        self._noting.shutdown()
        self._wait_for_notes()


def _texts(name: str, column: pyarrow.Array) -> Iterator[pyarrow.Array]:
    """Yield the texts of a column and its children, without roles, identifiers and lists of tools."""
    if name in _UNCOUNTED or column.null_count == len(column):
        return
    if pyarrow.types.is_string(column.type):
        yield column
    elif pyarrow.types.is_list(column.type):
        yield from _texts(f"{name}[]", column.flatten())
    elif pyarrow.types.is_struct(column.type):
        for place, part in enumerate(column.type):
            yield from _texts(part.name, compute.struct_field(column, [place]))


def _byte_counts(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Count each byte, by pairs, which is ten times as fast."""
    even = len(data) // 2 * 2
    pairs = np.zeros(65536, dtype=np.int64)
    for start in range(0, even, 2**20):  # numpy widens to eight bytes: pieces fit the cache
        pairs += np.bincount(np.frombuffer(data[start : min(even, start + 2**20)], dtype=np.uint16), minlength=65536)
    table = pairs.reshape(256, 256)
    counts: npt.NDArray[np.int64] = table.sum(axis=0) + table.sum(axis=1)
    if even < len(data):
        counts[data[-1]] += 1
    return counts


def remove_leftovers(out_root: Path) -> None:
    """Remove leftovers of stopped or killed imports, a day after their last write."""
    for old in out_root.glob(".importing-*"):
        if time.time() - old.stat().st_mtime > STALE_S:
            shutil.rmtree(old, ignore_errors=True)


@contextmanager
def holding_disk(out_root: Path) -> Iterator[None]:
    """Raise Unavailable when the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Unavailable(
                f"The disk that holds {out_root} is full.", remedy="Delete what you no longer need, then import again."
            ) from error
        raise


@contextmanager
def temporary_folder(out_root: Path) -> Iterator[Path]:
    """Make a temporary folder next to the published ones, removed afterwards unless published. Also removes old
    leftovers of killed imports. Raises Unavailable when the disk is full.
    """
    out_root.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out_root)
    folder = out_root / f".importing-{uuid.uuid4().hex[:12]}"
    folder.mkdir()
    try:
        with holding_disk(out_root):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sync_all(folder: Path) -> None:
    """Wait until the files of a folder are on the disk."""
    files = list(folder.iterdir())
    with ThreadPoolExecutor(max_workers=len(files)) as pool:  # one sync for all
        list(pool.map(sync, files))


def publish_version(folder: Path, *, target: Path) -> bool:
    """Sync a finished folder and rename it to its final name; return False if the same content exists already."""
    sync_all(folder)
    if (target / "meta.json").is_file():
        return False
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and (target / "meta.json").is_file():
            return False  # another import of the same content was faster
        raise
    return True
