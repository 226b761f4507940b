"""The tokens of one split of a dataset version, in a folder that grows while they are made and that any number of
processes read.

A folder holds raw arrays, each a file that is only appended to, and `manifest.json`, which is replaced atomically and
names the valid length of every file. Whatever lies beyond is ignored, so a killed maker leaves a shorter folder, never
a wrong one, and the next maker continues it. An item is a fixed number of segments: a text is one, a pair three
(prompt, chosen, rejected).

    ids      tokens of all segments; the highest bit marks a trained token
    ends     where each segment ends in `ids`
    rows     row of each item in the split, counted from 0
    values   a number of each item, by form
    sums     CRC-32 of each block of 64 KB of `ids`, checked when it is first read

Ids of a folder that are in the store come to this machine in blocks before a run reads them, and leave afterwards. What
comes does not depend on the machine, so batches are those of a whole copy.
"""

from __future__ import annotations

import itertools
import json
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.domain.data.token_folders import BLOCK_BYTES, FILES, MANIFEST, Manifest
from backend.domain.jobs.token_streams import (
    ANSWER,
    ASK,
    FAILURE,
    NEEDED,
    PROBLEM,
    FolderAnswer,
    FolderAsk,
    NeededBlocks,
)
from backend.errors import JobFailed
from jobs.modeling.publishing import publish_text
from jobs.reporter import Reporter, StopRequested

IdArray = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
Numbers = npt.NDArray[np.int64]
FLUSH_BYTES = 1 << 22
SUM = np.dtype(np.uint32)
POLL_S = 0.1
REMEDY = "Start the run again: its tokens are made again, and it continues from its last checkpoint."


@dataclass(frozen=True)
class TokenItem:
    """The token ids of an item's segments, and a number that its form defines."""

    segments: tuple[Sequence[int] | IdArray, ...]
    value: int = 0


@dataclass(frozen=True)
class RowTokens:
    """The items of a row, or the reason why it has none: the template's refusal, or a problem. `skipped` counts answers
    not trained on.
    """

    items: tuple[TokenItem, ...] = ()
    refusal: str = ""
    problem: bool = False
    skipped: int = 0


def id_type(vocabulary: int, *, has_marks: bool) -> type[np.uint16] | type[np.uint32]:
    """Return the narrowest type for ids of a vocabulary, with a bit for marks if they are needed."""
    return np.uint16 if vocabulary <= 1 << (15 if has_marks else 16) else np.uint32


def trained_bit(dtype: np.dtype[Any]) -> int:
    """Return the bit that marks a trained token."""
    return 1 << (8 * dtype.itemsize - 1)


@dataclass
class _Counts:
    rows: int = 0
    refused: int = 0
    problems: int = 0
    skipped: int = 0
    first_refused: int = -1
    refusal: str = ""


class TokenWriter:
    """Appends to a folder, from where its manifest ends. Only the process that holds the folder's lock writes."""

    def __init__(self, folder: Path, identity: dict[str, Any], *, dtype: type[np.uint16] | type[np.uint32]) -> None:
        self._folder, self._identity, self.dtype = folder, identity, dtype
        self._dtype = np.dtype(dtype)
        folder.mkdir(parents=True, exist_ok=True)
        manifest = read_token_manifest(folder)
        if manifest is None or manifest.identity != identity or manifest.dtype != self._dtype.name:
            manifest = Manifest(identity=identity, dtype=self._dtype.name)
            for name in FILES:
                (folder / name).unlink(missing_ok=True)  # processes that read the old files keep them open
        self.pieces = manifest.pieces
        self._counts = _Counts(**manifest.counts) if manifest.counts else _Counts()
        self._bytes, self._crcs = dict(manifest.bytes), dict(manifest.crcs)
        self._files = {}
        for name in FILES:
            file = (folder / name).open("ab")
            file.truncate(self._bytes.setdefault(name, 0))
            self._files[name] = file
        self._position = self._bytes["ids"] // self._dtype.itemsize
        with (folder / "ids").open("rb") as written:
            written.seek(self._bytes["sums"] // SUM.itemsize * BLOCK_BYTES)
            self._open_block = written.read()
        self._pending: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in self._files}
        self._pending_bytes, self._written_at = 0, time.monotonic()

    @property
    def rows(self) -> int:
        """Rows that are added."""
        return self._counts.rows

    @property
    def num_tokens(self) -> int:
        """Tokens that are added."""
        return self._position

    @property
    def num_items(self) -> int:
        """Items that are added."""
        return self._bytes["rows"] // 8 + sum(len(rows) for rows in self._pending["rows"])

    def add(self, numbers: Sequence[int], rows: Sequence[RowTokens]) -> None:
        """Add a piece: rows with their numbers in the split."""
        counts = self._counts
        lengths, flat, item_rows, values = [], [], [], []
        for number, row in zip(numbers, rows, strict=True):
            counts.rows += 1
            counts.problems += row.problem
            counts.skipped += row.skipped
            if row.refusal:
                counts.refused += 1
                if counts.first_refused < 0 or number < counts.first_refused:
                    counts.first_refused, counts.refusal = number, row.refusal
            for item in row.items:
                item_rows.append(number)
                values.append(item.value)
                for segment in item.segments:
                    lengths.append(len(segment))
                    flat.append(np.asarray(segment, dtype=self._dtype))
        ends = self._position + np.cumsum(np.array(lengths, dtype=np.int64))
        ids = np.concatenate(flat) if flat else np.empty(0, dtype=self._dtype)
        self._position += len(ids)
        self.pieces += 1
        for name, array in (("ids", ids), ("ends", ends), ("rows", item_rows), ("values", values)):
            self._pending[name].append(np.asarray(array, dtype=self._dtype if name == "ids" else np.int64))
        self._pending_bytes += ids.nbytes
        if self._pending_bytes >= FLUSH_BYTES or time.monotonic() - self._written_at >= 1.0:
            self.flush()

    def extend(self, tokens: StoredTokens) -> None:
        """Add the pieces of another folder, all at once, and write them."""
        counts, added = self._counts, _Counts(**tokens.manifest.counts)
        for name in ("rows", "refused", "problems", "skipped"):
            setattr(counts, name, getattr(counts, name) + getattr(added, name))
        if added.first_refused >= 0 and (counts.first_refused < 0 or added.first_refused < counts.first_refused):
            counts.first_refused, counts.refusal = added.first_refused, added.refusal
        arrays = {"ids": tokens.read(0, tokens.num_tokens), "ends": tokens.ends + self._position}
        for name, array in {**arrays, "rows": tokens.rows, "values": tokens.values}.items():
            self._pending[name].append(np.asarray(array))
        self._position += tokens.num_tokens
        self.pieces += tokens.manifest.pieces
        self.flush()

    def flush(self, *, is_complete: bool = False) -> None:
        """Write what is pending, then the manifest that makes it valid. Raises OSError if the disk is full."""
        data = {
            name: b"".join(array.tobytes() for array in arrays)
            for name, arrays in self._pending.items()
            if name != "sums"
        }
        data["sums"] = self._sums_of(data["ids"], is_complete=is_complete)
        for name, file in self._files.items():
            file.write(data[name])
            file.flush()
            os.fsync(file.fileno())
            self._bytes[name] += len(data[name])
            if name != "ids":
                self._crcs[name] = zlib.crc32(data[name], self._crcs.get(name, 0))
        manifest = Manifest(
            identity=self._identity,
            dtype=self._dtype.name,
            is_complete=is_complete,
            pieces=self.pieces,
            counts=asdict(self._counts),
            bytes=dict(self._bytes),
            crcs=dict(self._crcs),
        )
        partial = self._folder / f".{MANIFEST}.partial"
        partial.write_text(json.dumps(manifest.as_dict()), encoding="utf-8")
        partial.replace(self._folder / MANIFEST)
        self._pending = {name: [] for name in self._files}
        self._pending_bytes, self._written_at = 0, time.monotonic()

    def _sums_of(self, ids: bytes, *, is_complete: bool) -> bytes:
        """Return the sums of the blocks that these bytes fill; the last one is filled when all are there."""
        unsummed = memoryview(self._open_block + ids)
        end = len(unsummed) if is_complete else len(unsummed) // BLOCK_BYTES * BLOCK_BYTES
        self._open_block = bytes(unsummed[end:])
        blocks = [zlib.crc32(unsummed[at : min(at + BLOCK_BYTES, end)]) for at in range(0, end, BLOCK_BYTES)]
        return np.array(blocks, dtype=SUM).tobytes()

    def close(self) -> None:
        """Close the files. What is not flushed is lost."""
        for file in self._files.values():
            file.close()


def read_token_manifest(folder: Path, *, without: str = "") -> Manifest | None:
    """Return a folder's manifest; None without one, or if files are too short, but for one not needed."""
    try:
        manifest = Manifest.read((folder / MANIFEST).read_text(encoding="utf-8"))
        sizes = {name: size for name, size in manifest.bytes.items() if name != without}
        if all((folder / name).stat().st_size >= size for name, size in sizes.items()):
            return manifest
    except (OSError, ValueError):
        pass
    return None


@dataclass
class StoredTokens:
    """A folder's tokens, as many as are made. `segments` are those of an item.

    `keep_waiting` is called while more are awaited; it starts a maker if there is none, and raises if that fails.
    `progress` says how far they are. The ids of a folder with `blocks` are not in it; blocks of them come when they are
    needed.
    """

    folder: Path
    segments: int
    manifest: Manifest
    blocks: Blocks | None = None
    keep_waiting: Callable[[], None] = lambda: None
    progress: Callable[[], str] = lambda: ""
    on_complete: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._checked = np.zeros(0, dtype=bool)
        self._map()
        self._check_tables()

    def _map(self) -> None:
        sizes = self.manifest.bytes
        self.dtype = np.dtype(self.manifest.dtype)
        self.num_tokens = sizes["ids"] // self.dtype.itemsize
        self.ids: IdArray = np.empty(0, self.dtype) if self.blocks else self._array("ids", self.dtype, sizes)
        self.ends, self.rows, self.values = (
            self._array(name, np.dtype(np.int64), sizes) for name in ("ends", "rows", "values")
        )
        self._sums = self._array("sums", SUM, sizes)
        self._checked = np.concatenate([self._checked, np.zeros(len(self._sums) - len(self._checked), dtype=bool)])

    def _array(self, name: str, dtype: np.dtype[Any], sizes: dict[str, int]) -> Any:
        count = sizes[name] // dtype.itemsize
        return (
            np.memmap(self.folder / name, dtype=dtype, mode="r", shape=(count,)) if count else np.empty(0, dtype=dtype)
        )

    def _check_tables(self) -> None:
        """Check the small files of a complete folder, whose numbers lead into `ids`."""
        if not self.manifest.is_complete:
            return
        for name, crc in self.manifest.crcs.items():
            with (self.folder / name).open("rb") as file:
                if zlib.crc32(file.read(self.manifest.bytes[name])) != crc:
                    raise self._damaged(name)

    def _damaged(self, name: str, *, block: int = 0) -> JobFailed:
        if self.blocks is not None and name == "ids":
            self.blocks.drop(block)
        (self.folder / MANIFEST).unlink(missing_ok=True)
        return JobFailed(
            f"The stored tokens in {self.folder.name} are damaged: {name} is not what was written.", remedy=REMEDY
        )

    @property
    def is_complete(self) -> bool:
        """Return whether all rows are there."""
        return self.manifest.is_complete

    @property
    def num_items(self) -> int:
        """Items that are there so far."""
        return len(self.rows)

    def refresh(self) -> None:
        """Take up what was made since."""
        if self.is_complete:
            return
        manifest = read_token_manifest(self.folder)
        if manifest is None or manifest.identity != self.manifest.identity:
            return
        self.manifest = manifest
        self._map()
        if manifest.is_complete:
            for call in self.on_complete:
                call()

    def note(self) -> str:
        """Take up what was made since; say how far it is, empty if it is complete."""
        self.refresh()
        return "" if self.is_complete else self.progress()

    def wait(self, is_enough: Callable[[], bool]) -> None:
        """Wait until there is enough, or everything."""
        while not (is_enough() or self.is_complete):
            self.keep_waiting()
            time.sleep(POLL_S)
            self.refresh()

    def bounds(self, item: int) -> list[int]:
        """Return where the segments of an item begin in `ids`, and where the last ends."""
        first = item * self.segments
        begin = int(self.ends[first - 1]) if first else 0
        return [begin, *map(int, self.ends[first : first + self.segments])]

    def segments_of(self, item: int) -> list[list[int]]:
        """Return the ids of an item's segments. Raises JobFailed if they are not what was written."""
        bounds = self.bounds(item)
        ids = self.read(bounds[0], bounds[-1]).tolist()
        return [ids[begin - bounds[0] : end - bounds[0]] for begin, end in pairwise(bounds)]

    def lengths(self, first: int = 0, last: int | None = None) -> Numbers:
        """Return the tokens of each segment of the items from `first` to before `last`, shape (items, segments)."""
        last = self.num_items if last is None else last
        ends = np.asarray(self.ends[first * self.segments : last * self.segments])
        before = int(self.ends[first * self.segments - 1]) if first else 0
        return np.diff(ends, prepend=before).reshape(-1, self.segments)

    def row_at(self, position: int) -> int:
        """Return the dataset's row, counted from 1, that holds a position of `ids`."""
        return int(self.rows[int(np.searchsorted(self.ends, position, side="right")) // self.segments]) + 1

    def read(self, begin: int, end: int) -> IdArray:
        """Return ids, as stored. Raises JobFailed if they are not what was written."""
        size = BLOCK_BYTES // self.dtype.itemsize
        for block in range(begin // size, min(-(-end // size), len(self._checked))):
            if not self._checked[block]:
                if zlib.crc32(self._read(block * size, (block + 1) * size).data) != int(self._sums[block]):
                    raise self._damaged("ids", block=block)
                self._checked[block] = True
        return self._read(begin, end)

    def _read(self, begin: int, end: int) -> IdArray:
        if self.blocks is None:
            return self.ids[begin:end]
        size = self.dtype.itemsize
        ids: IdArray = np.frombuffer(self.blocks.read(begin * size, min(end, self.num_tokens) * size), self.dtype)
        return ids

    def announce(self, step: int, spans_of: Callable[[int], Sequence[tuple[int, int]]]) -> None:
        """Have the blocks that the steps from this one on read brought ahead of them, if they have to be; `spans_of`
        returns where the ids of a step lie, in the order in which they are read.
        """
        if self.blocks is not None:
            size = self.dtype.itemsize
            self.blocks.announce(step, lambda each: [(begin * size, end * size) for begin, end in spans_of(each)])


def open_tokens(
    folder: Path, *, segments: int, identity: Mapping[str, object], blocks: Blocks | None = None
) -> StoredTokens | None:
    """Open a folder, of which the ids are read by `blocks` if they are not in it; None if it has no manifest yet, or
    one of other content.
    """
    manifest = read_token_manifest(folder, without="ids" if blocks else "")
    if manifest is None or manifest.identity != identity:
        return None
    return StoredTokens(folder, segments, manifest, blocks)


STORE_POLL_S = 0.02
LOOK_EVERY_S = 1.0
MAX_SPANS = 20_000
"""Spans from which the next blocks are taken, at most."""

Spans = Sequence[tuple[int, int]]


@dataclass
class Supervisor:
    """The process that has the store's keys: it is asked by files in `folder`. `number` tells this process from others
    of the same run; one of several can't be stopped while it waits, since the others would wait for it.
    """

    folder: Path
    reporter: Reporter
    number: int = 0
    can_stop: bool = True

    def __post_init__(self) -> None:
        self._asked = itertools.count()
        self._problem = ""

    def ask(self, ask: FolderAsk) -> FolderAnswer:
        """Return the answer. Raises JobFailed for a failure, StopRequested."""
        path = self.folder / f"{self.number}-{next(self._asked)}{ASK}"
        answer = path.with_suffix(ANSWER)
        publish_text(path, ask.model_dump_json())
        self.wait(answer.is_file)
        read = FolderAnswer.model_validate_json(answer.read_bytes())
        answer.unlink()
        if read.state == "failed":
            raise JobFailed(read.cause, remedy=read.remedy or "")
        return read

    def request(self, folder: str, blocks: Iterable[int]) -> None:
        """Say which blocks are read next."""
        needed = NeededBlocks(folder=folder, blocks=tuple(blocks))
        publish_text(self.folder / f"{self.number}-{folder.rpartition('/')[2]}{NEEDED}", needed.model_dump_json())

    def wait(self, is_there: Callable[[], bool]) -> None:
        """Wait, for as long as it takes, and log why. Raises JobFailed if it will never come, StopRequested."""
        looked_at = time.monotonic()
        while not is_there():
            time.sleep(STORE_POLL_S)
            if time.monotonic() - looked_at > LOOK_EVERY_S:
                looked_at = time.monotonic()
                self._look()
        if self._problem:
            self._problem = ""
            self.reporter.log("The store answers again.")

    def _look(self) -> None:
        if (failure := _read(self.folder / FAILURE)) and (answer := FolderAnswer.model_validate_json(failure)):
            raise JobFailed(answer.cause, remedy=answer.remedy or "")
        problem = _read(self.folder / PROBLEM)
        if problem and not self._problem:
            self._problem = problem
            self.reporter.log(f"The run waits for the store, and continues when it answers: {problem}")
        if self.can_stop and self.reporter.should_stop():
            raise StopRequested


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


class Blocks:
    """The blocks of one folder's ids."""

    def __init__(self, supervisor: Supervisor, folder: str, answer: FolderAnswer) -> None:
        self._supervisor, self._folder = supervisor, folder
        self._blocks, self._num_ahead = Path(answer.blocks), max(1, answer.num_ahead)
        self._step = 0
        self._spans_of: Callable[[int], Spans] = lambda step: []
        self._announced = range(0)

    def announce(self, step: int, spans_of: Callable[[int], Spans]) -> None:
        """Want the blocks of the steps from this one on, unless enough of them are needed already."""
        self._step, self._spans_of = step, spans_of
        if step not in self._announced:
            last = self._request(None)
            self._announced = range(step, step + 1 + (last - step) // 2)

    def read(self, begin: int, end: int) -> bytes:
        """Return bytes, waiting for blocks that are not here. Raises JobFailed, StopRequested."""
        parts = []
        for number in range(begin // BLOCK_BYTES, -(-end // BLOCK_BYTES)):
            start = number * BLOCK_BYTES
            parts.append(self._read(number, max(0, begin - start), min(BLOCK_BYTES, end - start)))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def drop(self, number: int) -> None:
        """Remove a block that is damaged on this machine: it is fetched again."""
        (self._blocks / str(number)).unlink(missing_ok=True)

    def _read(self, number: int, begin: int, end: int) -> bytes:
        path = self._blocks / str(number)
        while True:
            try:
                with path.open("rb", buffering=0) as file:
                    file.seek(begin)
                    return file.read(end - begin)
            except FileNotFoundError:
                self._supervisor.wait(self._is_needed(number, path))

    def _is_needed(self, number: int, path: Path) -> Callable[[], bool]:
        """Return the test whether a block is there, which needs it again where it has left."""
        asked_at = 0.0

        def is_there() -> bool:
            nonlocal asked_at
            if path.exists():
                return True
            if time.monotonic() - asked_at > LOOK_EVERY_S:
                asked_at = time.monotonic()
                self._request(number)
            return False

        return is_there

    def _request(self, first: int | None) -> int:
        """Ask for the next blocks, of which one may be known to be the first; return the last step that they serve."""
        needed: dict[int, None] = {} if first is None else {first: None}
        last = self._step
        for step, number in itertools.islice(self._upcoming(), MAX_SPANS):
            needed[number], last = None, step
            if len(needed) >= self._num_ahead:
                break
        self._supervisor.request(self._folder, needed)
        return last

    def _upcoming(self) -> Iterator[tuple[int, int]]:
        for step in itertools.count(self._step):
            spans = self._spans_of(step)
            if not spans:
                return
            for begin, end in spans:
                for number in range(begin // BLOCK_BYTES, -(-end // BLOCK_BYTES)):
                    yield step, number
