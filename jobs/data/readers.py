"""Cut the files of a source into blocks of complete rows, a few megabytes each, with the position after each. Cutting
is cheap; blocks are parsed in parallel (jobs.data.parsing). Memory is bounded by the block, never by the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from backend.domain.data.parsing.json_stream import iter_json_rows
from backend.domain.data.parsing.text_formats import (
    END_OF_TEXT,
    MAX_DOCUMENT_BYTES,
    MAX_ROW_BYTES,
    TEXTS,
    NumberedRow,
    csv_shape,
    iter_csv_rows,
)
from backend.domain.data.rows.problem import RowProblem
from backend.domain.data.splits import Split
from backend.infra.files.encoding import Utf8Stream
from backend.infra.files.local import Ignored, LocalListing, Member, OpenedMember, list_source
from jobs.data.blocks import Bytes, RowBlock, SourcePosition
from jobs.data.csv_cells import csv_cut, csv_marks
from jobs.data.tables import TABLE_BYTES, on_disk, table_blocks

BLOCK_BYTES = 2 * 2**20  # fits the processor's cache
ROWS_IN_BLOCK = 2000
RAW_BYTES = 2000
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
        """List the source. Raises what `backend.infra.files.local.list_source` raises."""
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
            with on_disk(member) as path:
                yield from table_blocks(member, path, mark, columns, table_bytes)
            return
        with member.open() as opened:
            stream = _Reader(opened, Utf8Stream(opened.read, encoding=self._encoding, skip=opened.skip), self._spare)
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
