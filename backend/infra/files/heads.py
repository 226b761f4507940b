"""Read the first rows of a source from its first megabytes: a file, a folder, a zip, or remote files."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import pyarrow
from pyarrow import feather

from backend.domain.data.parsing.text_formats import MAX_ROW_BYTES, TABLES, sniff_rows, suffix_of
from backend.domain.data.rows.columns import EncodedFile, SourceHead
from backend.domain.data.versions.saved_splits import SavedChoice
from backend.domain.json_values import Row
from backend.errors import InvalidInput
from backend.infra.files.encoding import Utf8Stream, guess_encoding, guess_wide_encoding, own_encoding
from backend.infra.files.local import Member, OpenedMember, SavedSplit, choose_saved, list_source
from backend.infra.files.parquet import first_rows
from backend.infra.files.remote import BLOCK_BYTES, RangedFile, Remote

HEAD_BYTES = 2 * 2**20
MAX_PACKED_TABLE = 64 * 2**20
"""Largest table inside a zip that is extracted for a preview."""
MAX_OTHERS = 20
NUM_ROWS = 50
"""Files beside the previewed one whose first rows are read, to tell those that do not fit."""


class _FirstRows(NamedTuple):
    """The first rows of a file, why rows can't be read, and the file's name if it is not UTF-8."""

    rows: list[Row]
    unreadable: tuple[str, ...] = ()
    foreign: EncodedFile | None = None


class NotUtf8(InvalidInput):
    """A file of which no row can be read as UTF-8."""

    def __init__(self, foreign: EncodedFile) -> None:
        super().__init__(
            f"{foreign.name} is not UTF-8 ({foreign.where}), and no row can be read as UTF-8.",
            remedy=f"Choose its encoding; perhaps {foreign.likely}." if foreign.likely else "Choose its encoding.",
            field="encoding",
        )
        self.foreign = foreign


def head_of_path(path: Path, *, encoding: str | None = None, split: str | None = None) -> SourceHead:
    """Return the first rows of a file, of the first file of a folder or a zip, or of a split of a saved dataset.

    Raises NotFound if it is missing, InvalidInput if it is empty, dangerous, holds no row, or does not match its
    ending.
    """
    if saved := choose_saved(path, split):
        return _head_of_saved(*saved)
    listing = list_source(path)
    first = listing.members[0]
    is_several = not listing.is_single
    read = _rows_of_member(first, limit=NUM_ROWS, encoding=encoding, is_several=is_several)
    others = {member.name: _rows_of_other(member, encoding) for member in listing.members[1 : 1 + MAX_OTHERS]}
    return SourceHead(
        read.rows,
        first.name,
        len(listing.members),
        listing.bytes,
        tuple((file.file, file.reason) for file in listing.ignored),
        tuple(each.foreign for each in (read, *others.values()) if each.foreign),
        unreadable=read.unreadable,
        others=tuple((name, each.rows) for name, each in others.items()),
    )


def _rows_of_other(member: Member, encoding: str | None) -> _FirstRows:
    """Return a few rows of a further file, none if it can't be read."""
    try:
        return _rows_of_member(member, limit=3, encoding=encoding, is_several=True)
    except NotUtf8 as error:
        return _FirstRows([], foreign=error.foreign)
    except InvalidInput:
        return _FirstRows([])


def _head_of_saved(choice: SavedChoice, splits: Mapping[str, SavedSplit]) -> SourceHead:
    listings = [splits[name].files() for name in (choice.train, choice.val) if name]
    first, members = listings[0].members[0], [member for listing in listings for member in listing.members]
    return SourceHead(
        _rows_of_member(first, limit=NUM_ROWS, encoding=None).rows,
        f"{choice.train}/{first.name}",
        len(members),
        sum(member.bytes for member in members),
        val_split=choice.val or "",
    )


def head_of_remote(remote: Remote, *, encoding: str | None = None) -> SourceHead:
    """Return the first rows of remote files; downloads a few megabytes at most. Raises Unavailable too."""
    files = remote.listing.files
    suffix, packing = suffix_of(files[0].path)
    if suffix == ".zip" or packing:
        raise InvalidInput(f"{files[0].path} is compressed, and is not downloaded for a preview.", field="kind")
    file = cast(BinaryIO, io.BufferedReader(RangedFile(remote, files[0]), buffer_size=BLOCK_BYTES))
    if suffix in TABLES:
        read = _FirstRows(_rows_of_table(files[0].path, suffix, file, limit=NUM_ROWS))
    else:
        read = _rows_of_text(files[0].path, file.read(HEAD_BYTES), limit=NUM_ROWS, encoding=encoding)
    return SourceHead(
        read.rows,
        files[0].path,
        len(files),
        remote.listing.bytes,
        (),
        (read.foreign,) if read.foreign else (),
        unreadable=read.unreadable,
    )


def _rows_of_member(member: Member, *, limit: int, encoding: str | None, is_several: bool = False) -> _FirstRows:
    """Return the first rows of a file; of several, `encoding` is that of those that are not UTF-8."""
    if member.suffix in TABLES and not member.entry:
        with member.path.open("rb") as file:
            return _FirstRows(_rows_of_table(member.name, member.suffix, file, limit=limit))
    with member.open() as opened:
        if member.suffix not in TABLES:
            name = member.name[: len(member.name) - len(member.packing)]
            head = _read(opened, HEAD_BYTES)
            if b"\n" not in head.rstrip():  # a first row that is longer is read whole
                head += _read(opened, MAX_ROW_BYTES)
            if encoding and is_several:
                rows = (
                    head if len(head) < HEAD_BYTES else head[: head.rfind(b"\n") + 1] or head
                )  # it may cut a character
                encoding = own_encoding(io.BytesIO(rows).read, encoding)
            return _rows_of_text(name, head, limit=limit, encoding=encoding)
        data = _read(opened, MAX_PACKED_TABLE + 1)
    if len(data) > MAX_PACKED_TABLE:
        raise InvalidInput(
            f"{member.name} within its zip is too large for a preview.", remedy="Unpack it first.", field="file"
        )
    return _FirstRows(_rows_of_table(member.name, member.suffix, io.BytesIO(data), limit=limit))


def _read(opened: OpenedMember, size: int) -> bytes:
    """Return up to `size` bytes; a stream may give them in pieces."""
    parts, have = [], 0
    while have < size and (data := opened.read(size - have)):
        parts.append(data)
        have += len(data)
    return b"".join(parts)


def _rows_of_text(name: str, head: bytes, *, limit: int, encoding: str | None) -> _FirstRows:
    text = _as_utf8(head, encoding)
    foreign = _foreign(text)
    try:
        rows, unreadable = sniff_rows(name, text, limit=limit)
        named = EncodedFile(name, foreign, guess_encoding(text) or "") if foreign else None
        return _FirstRows(rows, tuple(unreadable), named)
    except InvalidInput as error:
        wide = None if encoding else guess_wide_encoding(head)
        if not foreign and not wide:
            raise
        foreign = foreign or "every other byte is zero"
        guess = wide or guess_encoding(head)
        if not guess and b"\x00" in head:
            raise InvalidInput(
                f"{name} holds no text ({foreign}, and zeros): perhaps it is an image, a program or a compressed file.",
                remedy="Choose a file of text or rows, or extract it first.",
                field="file",
            ) from error
        raise NotUtf8(EncodedFile(name, foreign, guess or "")) from error


def _as_utf8(head: bytes, encoding: str | None) -> bytes:
    file = io.BytesIO(head)
    stream = Utf8Stream(file.read, encoding=encoding)
    return b"".join(iter(lambda: stream.read(HEAD_BYTES), b""))


def _foreign(text: bytes) -> str:
    """Return the position of the first bytes that are not UTF-8, or "", so that a form can offer encodings."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        if error.start < len(text) - 4:  # the last character may be cut in two
            line = text.count(b"\n", 0, error.start) + 1
            return f"byte 0x{text[error.start]:02X} in line {line:,}"
    return ""


def _rows_of_table(name: str, suffix: str, file: BinaryIO, *, limit: int) -> list[Row]:
    rows = first_rows(file, limit=limit) if suffix == ".parquet" else _sniff_arrow(name, file, limit=limit)
    if not rows:
        raise InvalidInput(f"{name} holds no rows.", field="file")
    return rows


def _sniff_arrow(name: str, file: BinaryIO, *, limit: int) -> list[Row]:
    """Return the first rows of an Arrow file: IPC file, stream (as `datasets` writes it), or old Feather."""
    try:
        start = file.read(6)
        file.seek(0)
        source = pyarrow.PythonFile(file, mode="r")
        if start.startswith(b"FEA1"):
            return cast("list[Row]", feather.read_table(source).slice(0, limit).to_pylist())
        reader = pyarrow.ipc.open_file(source) if start == b"ARROW1" else pyarrow.ipc.open_stream(source)
        batches = (reader.get_batch(i) for i in range(reader.num_record_batches)) if start == b"ARROW1" else reader
        rows: list[Row] = []
        for batch in batches:
            rows += batch.slice(0, limit - len(rows)).to_pylist()
            if len(rows) >= limit:
                break
        return rows
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"The file {name!r} can't be read as Arrow: {str(error)[:300]}", field="file") from None
