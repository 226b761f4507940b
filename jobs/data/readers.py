"""Cut the files of a source into blocks of complete rows, a few megabytes each, with the position after each. Cutting
is cheap; blocks are parsed in parallel (jobs.data.parsing). Memory is bounded by the block, never by the file.

A mark in a table (Parquet, Arrow) is its row. Cells of CSV are found with array operations: quotation marks,
delimiters, line ends, the last complete row, columns.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow
from pyarrow import compute, ipc

from backend.domain.data.parsing.json_stream import iter_json_rows
from backend.domain.data.parsing.text_formats import (
    END_OF_TEXT,
    MAX_DOCUMENT_BYTES,
    MAX_ROW_BYTES,
    TEXTS,
    CsvShape,
    NumberedRow,
    csv_shape,
    iter_csv_rows,
)
from backend.domain.data.rows.columns import table_columns
from backend.domain.data.rows.problem import RowProblem
from backend.domain.data.splits import Split
from backend.errors import InvalidInput
from backend.infra.files.encoding import Utf8Stream, own_encoding
from backend.infra.files.local import Ignored, LocalListing, Member, OpenedMember, list_source
from backend.infra.files.parquet import source_batches

Bytes = bytes | bytearray


@dataclass(frozen=True)
class SourcePosition:
    """A position between two rows of a source: the member, its bytes (or rows, of a table) before it, the next row's
    number.
    """

    member: int = 0
    offset: int = 0
    number: int = 1


@dataclass(frozen=True)
class CsvMarks:
    """Positions of quotes, delimiters and line ends in a piece of CSV (int32), and the byte at each."""

    places: npt.NDArray[np.int32]
    kinds: npt.NDArray[np.uint8]

    @property
    def num_rows(self) -> int:
        """Number of row ends: line feeds outside quotes, but for those of empty lines."""
        outside = np.cumsum(self.kinds == 0x22, dtype=np.uint8) & 1 == 0
        ends = self.places[outside & (self.kinds == 0x0A)]
        lengths = np.diff(ends, prepend=-1) - 1
        returns = np.isin(ends[lengths == 1] - 1, self.places[self.kinds == 0x0D])
        return len(ends) - int(np.count_nonzero(lengths == 0)) - int(np.count_nonzero(returns))

    def before(self, end: int) -> CsvMarks:
        """Return the marks before a position."""
        count = int(np.searchsorted(self.places, end))
        return CsvMarks(self.places[:count], self.kinds[:count])


@dataclass(frozen=True)
class RowBlock:
    """Consecutive rows of one file, the first numbered `first`: as bytes to parse, as a table, or as parsed rows.
    `after` is where reading continues, `position` the bytes of the source read so far, `side` the split assigned by the
    source.
    """

    file: str
    suffix: str
    first: int
    after: SourcePosition
    position: int
    data: Bytes = b""
    table: pyarrow.Table | None = None
    rows: tuple[NumberedRow, ...] | None = None
    shape: CsvShape | None = None
    marks: CsvMarks | None = None
    side: Split | None = None


BLOCK_BYTES = 2 * 2**20  # fits the processor's cache
ROWS_IN_BLOCK = 2000
TABLE_BYTES = 2 * 2**20
RAW_BYTES = 2000
_UNPACKED = ".unpacked-"
_MARKED = re.compile(rb"(?m)^[ \t\r\f\v]*" + re.escape(END_OF_TEXT) + rb"[ \t\r\f\v]*\n")


class SourceRows(Protocol):
    """Rows in blocks, readable from any mark. `sides`: splits that the source assigns to its members, if any."""

    listing: LocalListing
    name: str
    size: int
    sides: tuple[Split, ...] | None

    @property
    def ignored(self) -> tuple[Ignored, ...]:
        """Files that are left out."""

    def blocks(
        self, start: SourcePosition = SourcePosition(), *, columns: tuple[str, ...] = (), table_bytes: int = TABLE_BYTES
    ) -> Iterator[RowBlock]:
        """Yield blocks from a mark on; of tables only `columns`, if all exist, about `table_bytes` at a time."""

    def reuse(self, data: Bytes) -> None:
        """Reuse the buffer of a block that is no longer read."""


class RowSource:
    """The rows of a file, a folder or a zip, in blocks."""

    sides: tuple[Split, ...] | None = None

    def __init__(self, path: Path, *, lines_are_prompts: bool = False, encoding: str | None = None) -> None:
        """List the source. Of several files, `encoding` is that of those that are not UTF-8.

        Raises what `backend.infra.files.local.list_source` raises.
        """
        self.listing: LocalListing = list_source(path)
        self.name = path.name
        self._prompts, self._encoding = lines_are_prompts, encoding
        self._spare: list[bytearray] = []
        self.size = self.listing.bytes

    @property
    def ignored(self) -> tuple[Ignored, ...]:
        """Files that are left out."""
        return self.listing.ignored

    def reuse(self, data: Bytes) -> None:
        """Reuse the buffer of a block that is no longer read; thread-safe. New memory would be cleared first."""
        if isinstance(data, bytearray) and len(data) <= BLOCK_BYTES:
            self._spare.append(data)

    def blocks(
        self, start: SourcePosition = SourcePosition(), *, columns: tuple[str, ...] = (), table_bytes: int = TABLE_BYTES
    ) -> Iterator[RowBlock]:
        """Yield blocks from a mark on; of tables only `columns` are read, if all of them exist, `table_bytes` at a
        time.

        Raises InvalidInput.
        """
        members = self.listing.members
        before = sum(member.bytes for member in members[: start.member])
        for place in range(start.member, len(members)):
            member = members[place]
            mark = start if place == start.member else SourcePosition(place)
            name = "" if self.listing.is_single else member.name
            for block in self._cut(member, mark, columns, table_bytes):
                after = replace(block.after, member=place)
                yield replace(block, file=name, after=after, position=before + min(block.position, member.bytes))
            before += member.bytes

    def _cut(
        self, member: Member, mark: SourcePosition, columns: tuple[str, ...], table_bytes: int
    ) -> Iterator[RowBlock]:
        if member.suffix in (".parquet", ".arrow", ".feather"):
            with _on_disk(member) as path:
                yield from _table_blocks(member, path, mark, columns, table_bytes)
            return
        encoding = self._encoding
        if encoding and not self.listing.is_single:
            with member.open() as opened:
                encoding = own_encoding(opened.read, encoding)
        with member.open() as opened:
            stream = _Reader(opened, Utf8Stream(opened.read, encoding=encoding, skip=opened.skip), self._spare)
            if member.suffix == ".json":
                yield from _json_blocks(stream, mark)
            elif member.suffix in (".csv", ".tsv"):
                yield from _csv_blocks(stream, mark, suffix=member.suffix)
            else:
                stream.skip(mark.offset)
                of_text = ".lines" if self._prompts else ".txt"
                yield from _blocks(stream, mark, suffix=of_text if member.suffix in TEXTS else ".jsonl")


class _Reader:
    """Buffer of UTF-8 bytes to be cut, with the bytes taken: `offset` in the text, `position` in the file."""

    def __init__(self, opened: OpenedMember, stream: Utf8Stream, spare: list[bytearray]) -> None:
        self._opened, self._stream, self._spare = opened, stream, spare
        self.data: Bytes = b""
        self.offset = 0
        self.ended = False

    @property
    def position(self) -> int:
        return self._opened.position

    def skip(self, size: int) -> None:
        self._stream.skip(size)
        self.offset += size

    def fill(self, size: int) -> None:
        """Read until `size` bytes are buffered, or to the end."""
        have = len(self.data)
        if have >= size or self.ended:
            return
        buffer = self._room(size)
        buffer[:have] = self.data
        with memoryview(buffer) as view:
            while have < size and not self.ended:
                part = self._stream.read_into(view[have:], self._opened.read_into)
                self.ended = not part
                have += part
        del buffer[have:]
        self.data = buffer

    def _room(self, size: int) -> bytearray:
        try:
            room = self._spare.pop()
            room.extend(bytes(max(1, size - len(room))))  # refused while the buffer is in use
        except (IndexError, BufferError):
            return bytearray(size)
        del room[size:]
        return room

    def take(self, size: int) -> Bytes:
        """Return and remove the first bytes. The buffer is handed over; the remainder, usually small, is copied."""
        data, self.data = self.data, bytes(memoryview(self.data)[size:])
        self.offset += size
        if size < len(data):
            data = data[:size] if isinstance(data, bytes) else data
            if isinstance(data, bytearray):
                del data[size:]
        return data

    def chunks(self) -> Iterator[bytes]:
        """Yield all remaining bytes."""
        while True:
            self.fill(2**20)
            if not self.data:
                return
            yield bytes(self.take(len(self.data)))


def _block(stream: _Reader, number: int, *, first: int, suffix: str, **content: Any) -> RowBlock:
    return RowBlock("", suffix, first, SourcePosition(0, stream.offset, number), stream.position, **content)


def _blocks(stream: _Reader, mark: SourcePosition, *, suffix: str) -> Iterator[RowBlock]:
    """Yield blocks that end with a line; those of texts with a mark between documents, or at the maximum length of a
    document. A line that is too long is skipped and reported.
    """
    is_text, number = suffix == ".txt", mark.number
    longest = MAX_DOCUMENT_BYTES if is_text else MAX_ROW_BYTES
    while True:
        stream.fill(BLOCK_BYTES)
        if not stream.data:
            return
        cut = _last_mark(stream.data) if is_text else stream.data.rfind(b"\n") + 1
        if not cut and not stream.ended:
            stream.fill(longest if is_text else longest + 1)
            cut = _last_mark(stream.data) if is_text else stream.data.find(b"\n") + 1
            if not cut and not stream.ended:
                cut = stream.data.rfind(b"\n") + 1 if is_text else 0
            if not cut and not stream.ended:
                problem = _pass_line(stream, longest=longest)
                yield _block(stream, number + 1, first=number, suffix=suffix, rows=((number, problem),))
                number += 1
                continue
        data = stream.take(cut or len(stream.data))
        lines = _num_lines(data) if is_text else _num_filled_lines(data)
        yield _block(stream, number + lines, first=number, suffix=suffix, data=data)
        number += lines


def _num_lines(data: Bytes) -> int:
    """Count line ends; five times as fast as `bytes.count`."""
    return int(np.count_nonzero(np.frombuffer(data, dtype=np.uint8) == 0x0A))


def _num_filled_lines(data: Bytes) -> int:
    """Count lines that are not blank."""
    characters = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero(characters == 0x0A)
    starts = np.concatenate([[0], ends[:-1] + 1])[: len(ends)]
    may_be_blank = characters[starts] <= 0x20
    return len(ends) - sum(
        not bytes(data[start:end]).strip()
        for start, end in zip(starts[may_be_blank].tolist(), ends[may_be_blank].tolist(), strict=True)
    )


def _pass_line(stream: _Reader, *, longest: int = MAX_ROW_BYTES) -> RowProblem:
    """Read to the end of a line, keeping only its beginning."""
    raw = stream.data[:RAW_BYTES].decode("utf-8", "replace")
    size = 0
    while True:
        cut = stream.data.find(b"\n") + 1
        size += len(stream.take(cut or len(stream.data)))
        if cut or stream.ended:
            break
        stream.fill(2**20)
    return RowProblem(
        f"the line is longer than {longest / 2**20:g} MB ({size:,} bytes); split it, or leave it out", raw=raw
    )


def _last_mark(data: Bytes) -> int:
    """Return the end of the last line that separates documents, or 0."""
    if data.find(b"<|") < 0:  # much faster than the search from the end
        return 0
    end = len(data)
    while (place := data.rfind(END_OF_TEXT, 0, end)) >= 0:
        start = data.rfind(b"\n", 0, place) + 1
        match = _MARKED.match(data, start)
        if match:
            return match.end()
        end = place
    return 0


def _batched(rows: Iterable[NumberedRow]) -> Iterator[tuple[NumberedRow, ...]]:
    """Group rows into blocks by number and size."""
    batch: list[NumberedRow] = []
    size = 0
    for number, row in rows:
        batch.append((number, row))
        size += (
            100
            if isinstance(row, RowProblem)
            else sum(len(value) if isinstance(value, str | list) else 8 for value in row.values())
        )
        if len(batch) >= ROWS_IN_BLOCK or size > BLOCK_BYTES:
            yield tuple(batch)
            batch, size = [], 0
    if batch:
        yield tuple(batch)


def _json_blocks(stream: _Reader, mark: SourcePosition) -> Iterator[RowBlock]:
    """Yield blocks of a JSON list; to resume, rows before the mark are parsed and skipped."""
    rows = (
        (number, row) for number, row in iter_json_rows(stream.chunks(), longest=MAX_ROW_BYTES) if number >= mark.number
    )
    for batch in _batched(rows):
        number = batch[-1][0] + 1
        yield _block(stream, number, first=batch[0][0], suffix=".json", rows=batch)


def _csv_blocks(stream: _Reader, mark: SourcePosition, *, suffix: str) -> Iterator[RowBlock]:
    """Yield blocks that end with a row, by the parity of the quotation marks; one by one where malformed."""
    stream.fill(BLOCK_BYTES)
    shape, header = csv_shape(bytes(stream.data), suffix=suffix)
    number = 1
    if shape.has_header:
        stream.take(header)
    ahead = mark.offset - stream.offset
    if ahead > 0:
        stream.skip(ahead - len(stream.take(ahead)))
        number = mark.number
    while True:
        stream.fill(BLOCK_BYTES)
        if not stream.data:
            return
        marks = csv_marks(stream.data, shape)
        cut = csv_cut(stream.data, marks, shape, is_whole=stream.ended)
        if cut:
            data, marks = stream.take(cut), marks.before(cut)
            num_rows = marks.num_rows
            yield _block(stream, number + num_rows, first=number, suffix=".csv", data=data, shape=shape, marks=marks)
            number += num_rows
            continue
        single = _Lines(stream)
        for batch in _batched(iter_csv_rows(single, shape=shape, first=number, is_enough=single.is_enough)):
            number = batch[-1][0] + 1
            yield _block(stream, number, first=batch[0][0], suffix=".csv", rows=batch)
        single.close()


class _Lines:
    """Lines for the csv module, one at a time, until the buffered ones are read and a row ends."""

    def __init__(self, stream: _Reader) -> None:
        self._stream, self._place = stream, 0
        self._until = stream.offset + len(stream.data)

    def is_enough(self) -> bool:
        """Return whether enough was read; called between rows."""
        return self._stream.offset >= self._until

    def __iter__(self) -> Iterator[bytes | RowProblem]:
        stream = self._stream
        while True:
            end = stream.data.find(b"\n", self._place) + 1
            if not end and not stream.ended:
                self.close()
                stream.fill(MAX_ROW_BYTES + 1)
                end = stream.data.find(b"\n") + 1
            if self._place >= len(stream.data):
                return
            if not end and not stream.ended:
                yield _pass_line(stream)
                continue
            line = bytes(stream.data[self._place : end or len(stream.data)])
            self._place += len(line)
            stream.offset += len(line)
            yield line

    def close(self) -> None:
        """Return unread bytes to the stream."""
        self._stream.data, self._place = self._stream.data[self._place :], 0


@contextmanager
def _on_disk(member: Member) -> Iterator[Path]:
    """Lend a seekable file: a member of a zip is extracted for that."""
    if not member.entry:
        yield member.path
        return
    with tempfile.NamedTemporaryFile(dir=_beside(member.path), prefix=_UNPACKED) as file, member.open() as opened:
        while data := opened.read(2**20):
            file.write(data)
        file.flush()
        yield Path(file.name)


def folder_beside(path: Path, *, owner: object) -> Path:
    """Return a new folder for what is unpacked of a zip; it goes with its owner."""
    folder = Path(tempfile.mkdtemp(dir=_beside(path), prefix=_UNPACKED))
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    return folder


def _beside(path: Path) -> Path | None:
    return path.parent if os.access(path.parent, os.W_OK) else None  # the data folder may be read-only


def _table_blocks(
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


Places = npt.NDArray[np.int32]
_PIECE_BYTES = 2**18  # NumPy's temporaries fit the cache
_QUOTE, _LF, _CR = 0x22, 0x0A, 0x0D


def csv_marks(data: Bytes, shape: CsvShape) -> CsvMarks:
    """Return the positions of quotation marks (if `quoted`), delimiters, line feeds and carriage returns, in order."""
    characters = np.frombuffer(data, dtype=np.uint8)
    marks = [_LF, _CR, ord(shape.delimiter), *([_QUOTE] if shape.quoted else [])]
    pieces = [np.zeros(0, dtype=np.int64)]
    for start in range(0, len(data), _PIECE_BYTES):
        piece = characters[start : start + _PIECE_BYTES]
        marked = piece == marks[0]
        for character in marks[1:]:
            marked |= piece == character
        pieces.append(np.flatnonzero(marked) + start)
    places = np.concatenate(pieces)
    return CsvMarks(places.astype(np.int32), characters[places])


def csv_cut(data: Bytes, marks: CsvMarks, shape: CsvShape, *, is_whole: bool) -> int:
    """Return the end of the last complete row, or 0 without one or at a misplaced quotation mark. Quotes enclose
    fields, so a line end is a row end if an even number of them precede it.
    """
    end = len(data) if is_whole else data.rfind(b"\n") + 1
    characters = np.frombuffer(data, dtype=np.uint8)
    quotes = marks.places[marks.kinds == _QUOTE]
    edges = np.zeros(256, dtype=bool)
    edges[[_QUOTE, _LF, ord(shape.delimiter)]] = True
    opening, closing = quotes[0::2], quotes[1::2]
    if not edges[characters[opening[opening > 0] - 1]].all():
        return 0
    edges[_CR] = True
    if not edges[characters[closing[closing + 1 < len(data)] + 1]].all():
        return 0
    if is_whole and len(quotes) % 2 == 0:
        return end
    while end > 0:
        before_end = int(np.searchsorted(quotes, end))
        if before_end % 2 == 0:
            break
        end = data.rfind(b"\n", 0, int(quotes[before_end - 1])) + 1
    return end


def csv_columns(data: Bytes, marks: CsvMarks, shape: CsvShape, names: Sequence[str]) -> pyarrow.Table | None:
    """Return the named columns of rows cut by `csv_cut`, which are UTF-8. None if a row has too many or too few fields,
    or a line may end other than by LF or CR LF.
    """
    characters = np.frombuffer(data, dtype=np.uint8)
    places, kinds = marks.places, marks.kinds
    returns = places[kinds == _CR]
    if not len(places) or (len(returns) and (data.endswith(b"\r") or (characters[returns + 1] != _LF).any())):
        return None
    is_quote = kinds == _QUOTE
    is_end = (np.cumsum(is_quote, dtype=np.uint8) & 1 == 0) & ~is_quote & (kinds != _CR)
    ends, ends_row = places[is_end], kinds[is_end] == _LF
    if not data.endswith(b"\n"):
        ends, ends_row = np.append(ends, np.int32(len(data))), np.append(ends_row, True)
    starts = np.concatenate([np.zeros(1, dtype=np.int32), ends[:-1] + 1])
    after_return = ends_row & (ends > starts) & (characters[ends - 1] == _CR)
    ends = ends - after_return
    is_empty_line = ends_row & np.concatenate([[True], ends_row[:-1]]) & (starts == ends)
    starts, ends, ends_row = starts[~is_empty_line], ends[~is_empty_line], ends_row[~is_empty_line]
    width = len(shape.header)
    if not len(ends) or not np.array_equal(np.flatnonzero(ends_row) + 1, np.arange(width, len(ends) + width, width)):
        return None
    is_quoted = (ends > starts) & (characters[np.minimum(starts, len(data) - 1)] == _QUOTE) & shape.quoted
    starts, ends = starts + is_quoted, ends - is_quoted
    spelled = []
    if np.count_nonzero(is_quote) > 2 * np.count_nonzero(is_quoted):
        spelled.append(('""', '"'))
    if len(returns) > np.count_nonzero(after_return) and not shape.keeps_returns:  # lines within a cell end by LF alone
        spelled.append(("\r\n", "\n"))
    columns = []
    for name in names:
        place = shape.header.index(name)
        column = _cells(data, starts[place::width], ends[place::width])
        for pattern, replacement in spelled:
            column = compute.replace_substring(column, pattern=pattern, replacement=replacement)
        columns.append(column)
    return pyarrow.table(columns, names=list(names))


def _cells(data: Bytes, starts: Places, ends: Places) -> pyarrow.Array:
    """Copy the texts from each start to its end: every other segment of the bounds."""
    bounds = np.stack([starts, ends], axis=1).astype(np.int32, copy=False)
    parts = pyarrow.StringArray.from_buffers(bounds.size - 1, pyarrow.py_buffer(bounds), pyarrow.py_buffer(data))
    return parts.take(pyarrow.array(np.arange(0, bounds.size, 2, dtype=np.int32)))
