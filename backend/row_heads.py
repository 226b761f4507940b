"""The first rows of a source, from its first megabytes alone: a file, a folder, a zip, or files that lie elsewhere."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow
from pyarrow import feather

from backend.domain.row_readers import sniff_bytes, sniff_parquet, suffix_of
from backend.errors import InvalidInput
from backend.remote_files import BLOCK_BYTES, RangedFile, Remote
from backend.source_files import Member, Opened, list_source

HEAD_BYTES = 2 * 2**20
MAX_PACKED_TABLE = 64 * 2**20
"""A table inside a zip is unpacked whole to look at it; a larger one waits for the worker."""
TABLES = (".parquet", ".arrow", ".feather")
ENCODINGS = (
    "cp1252", "latin-1", "utf-16", "utf-16-le", "utf-16-be", "cp1250", "cp1251", "koi8-r", "iso8859-15", "shift_jis", "euc_jp", "gb18030",
    "big5", "euc_kr", "mac_roman",
)  # fmt: skip
"""Encodings offered for files that are not UTF-8, the likeliest first; any other that Python knows can be named on the command line."""
_MARKS = (b"\xff\xfe", b"\xfe\xff")

Row = dict[str, Any]


@dataclass(frozen=True)
class Head:
    """The first rows of a source.

    `name`: the file they are of, one of `files`. `left_out`: how many files of the source are not read. `foreign`: where bytes that are
    not UTF-8 begin, or "".
    """

    rows: list[Row]
    name: str
    files: int
    bytes: int
    left_out: int = 0
    foreign: str = ""


def head_of_path(path: Path, *, limit: int = 50, encoding: str | None = None) -> Head:
    """Return the first rows of a file, or of the first file of a folder or a zip.

    Raises NotFound if there is nothing, InvalidInput if it is empty, dangerous, holds no row, or is not what its ending says.
    """
    listing = list_source(path)
    first = listing.members[0]
    rows, foreign = _rows_of_member(first, limit=limit, encoding=encoding)
    return Head(rows, first.name, len(listing.members), listing.bytes, len(listing.ignored), foreign)


def head_of_remote(remote: Remote, *, limit: int = 50, encoding: str | None = None) -> Head:
    """The same for files that lie elsewhere; fetches some megabytes at most. Raises Unavailable too."""
    files = remote.listing.files
    suffix, packing = suffix_of(files[0].path)
    if suffix == ".zip" or packing:
        raise InvalidInput(f"{files[0].path} is packed, and is not fetched only to be looked at.", field="kind")
    file = cast(BinaryIO, io.BufferedReader(RangedFile(remote, files[0]), buffer_size=BLOCK_BYTES))
    if suffix in TABLES:
        rows, foreign = _rows_of_table(files[0].path, suffix, file, limit=limit), ""
    else:
        rows, foreign = _rows_of_text(files[0].path, file.read(HEAD_BYTES), limit=limit, encoding=encoding)
    return Head(rows, files[0].path, len(files), remote.listing.bytes, 0, foreign)


def _rows_of_member(member: Member, *, limit: int, encoding: str | None) -> tuple[list[Row], str]:
    """Return the first rows of a file, and where bytes that are not UTF-8 begin."""
    if member.suffix in TABLES and not member.entry:
        with member.path.open("rb") as file:
            return _rows_of_table(member.name, member.suffix, file, limit=limit), ""
    with member.open() as opened:
        if member.suffix not in TABLES:
            name = member.name[: len(member.name) - len(member.packing)]
            return _rows_of_text(name, _read(opened, HEAD_BYTES), limit=limit, encoding=encoding)
        data = _read(opened, MAX_PACKED_TABLE + 1)
    if len(data) > MAX_PACKED_TABLE:
        raise InvalidInput(f"{member.name} within its zip is too large to be looked at.", remedy="Unpack it first.", field="file")
    return _rows_of_table(member.name, member.suffix, io.BytesIO(data), limit=limit), ""


def _read(opened: Opened, size: int) -> bytes:
    """Return up to `size` bytes; a stream may give them in pieces."""
    parts, have = [], 0
    while have < size and (data := opened.read(size - have)):
        parts.append(data)
        have += len(data)
    return b"".join(parts)


def _rows_of_text(name: str, head: bytes, *, limit: int, encoding: str | None) -> tuple[list[Row], str]:
    text, foreign = _as_utf8(head, encoding)
    return sniff_bytes(name, text, limit=limit), foreign


def _as_utf8(head: bytes, encoding: str | None) -> tuple[bytes, str]:
    """Return the head in UTF-8, and where what is not UTF-8 begins, so that an encoding can be asked for."""
    wanted = encoding or ("utf-16" if head.startswith(_MARKS) else None)
    if wanted:
        try:
            return head.decode(wanted, "ignore").encode(), ""
        except LookupError:
            raise InvalidInput(
                f"There is no encoding {wanted!r}.", remedy=f"Try one of {', '.join(ENCODINGS[:6])}.", field="encoding"
            ) from None
    try:
        head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # the last character may be cut in two
            line = head.count(b"\n", 0, error.start) + 1
            return head, f"byte 0x{head[error.start]:02X} in line {line:,}"
    return head, ""


def _rows_of_table(name: str, suffix: str, file: BinaryIO, *, limit: int) -> list[Row]:
    rows = sniff_parquet(file, limit=limit) if suffix == ".parquet" else _sniff_arrow(name, file, limit=limit)
    if not rows:
        raise InvalidInput(f"{name} holds no rows.", field="file")
    return rows


def _sniff_arrow(name: str, file: BinaryIO, *, limit: int) -> list[Row]:
    """Return the first rows of an Arrow file: the IPC file format, the stream format (as `datasets` writes it), or old Feather."""
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
