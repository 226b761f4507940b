"""Parse rows from bytes: .txt .jsonl .json .csv .tsv, of a stream or the head of an upload. Opens no file.

Every parser yields `(number, row)`, where a row that can't be read is a RowProblem in the row's place. Rows are
numbered from 1, without a header and blank lines; what can't be read in a text has the number of its line. Memory is
bounded by the longest row allowed, never by the file.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from backend.domain.data.parsing.json_stream import iter_json_rows, parse_json_row
from backend.domain.data.rows.problem import RowProblem
from backend.domain.json_values import Row
from backend.errors import InvalidInput

NumberedRow = tuple[int, Row | RowProblem]

SUFFIXES = (".txt", ".md", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".feather", ".zip")
PACKINGS = (".gz", ".zst", ".bz2", ".xz")
TEXTS = (".txt", ".md")
TABLES = (".parquet", ".arrow", ".feather")
SEEKING = (*TABLES, ".zip")  # packed within; their index is at the end
END_OF_TEXT = b"<|endoftext|>"
MAX_ROW_BYTES = 8 * 2**20
MAX_DOCUMENT_BYTES = 16 * 2**20  # a longer document is cut into several at a line break
MIN_HEAD = 2**20  # a shorter head of a file is all of it
RAW_CHARACTERS = 2000
_TOO_LONG = "\udcff"  # marks a skipped line; no decoded text equals it
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_HEADER_NAMES = frozenset(
    [
        "text",
        "prompt",
        "instruction",
        "input",
        "output",
        "completion",
        "response",
        "question",
        "answer",
        "messages",
        "conversations",
        "chosen",
        "rejected",
        "id",
        "content",
    ]
)


def guess_ending(text: str) -> str:
    """Return the ending of a file for a pasted text: .jsonl, also with some broken lines, .json, .csv if its header is
    known, else .txt.
    """
    lines = [line for line in text.split("\n") if line.strip()]
    objects = [_is_object(line) for line in lines[:50]]
    if objects and (objects[0] or sum(objects) > len(objects) / 2):  # one JSON document ends with its first object
        return ".jsonl"
    if text.lstrip()[:1] in ("[", "{"):
        return ".json"
    header = {name.strip().strip('"').lower() for name in lines[0].split(",")} if lines else set()
    is_header = len(header) > 1 and all(re.fullmatch(r"[\w-]+", name) for name in header)
    return ".csv" if is_header and header & _HEADER_NAMES else ".txt"


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def suffix_of(name: str) -> tuple[str, str]:
    """Return a file's suffix and its compression ("" or one of PACKINGS). Raises InvalidInput if unknown."""
    bare, packing = _unpacked(name)
    suffix = next((known for known in SUFFIXES if bare.endswith(known)), None)
    if suffix is None or (packing and suffix in SEEKING):
        ending = re.search(r"(\.\w+)*$", name.lower())
        raise InvalidInput(
            f"A file that ends in {ending.group(0) if ending and ending.group(0) else 'nothing'!r} can't be read"
            f" ({name[:120]!r}).",
            remedy=f"Give one of {', '.join(SUFFIXES)}; those of text may also end in {' '.join(PACKINGS)}.",
            field="source",
        )
    return suffix, packing


def is_text_file(name: str) -> bool:
    """Return whether a file holds plain text by its name, compressed or not."""
    return _unpacked(name)[0].endswith(TEXTS)


def _unpacked(name: str) -> tuple[str, str]:
    lower = name.lower()
    packing = next((known for known in PACKINGS if lower.endswith(known)), "")
    return lower.removesuffix(packing), packing


def _checked(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Drop a UTF-8 byte order mark; refuse UTF-16, in which every line would fail."""
    first = True
    for chunk in chunks:
        if first and chunk:
            first = False
            if chunk.startswith(_UTF16):
                raise InvalidInput(
                    "The file is encoded as UTF-16.", remedy="Save it as UTF-8 and import it again.", field="source"
                )
            chunk = chunk.removeprefix(b"\xef\xbb\xbf")
        yield chunk


def iter_lines(
    chunks: Iterable[bytes], *, longest: int = MAX_ROW_BYTES, first: int = 1, keep_returns: bool = False
) -> Iterator[tuple[int, bytes | RowProblem]]:
    """Split chunks into numbered lines without their line ends; a line over `longest` bytes is a problem and is
    skipped.

    With `keep_returns` a line ends by LF alone, and a carriage return before it stays.
    """
    end = b"" if keep_returns else b"\r"
    number, rest, skipping = first, b"", False
    too_long = RowProblem(f"the line is longer than {longest / 2**20:g} MB")
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield number, too_long if skipping or len(line) > longest else line.removesuffix(end)
            skipping = False
            number += 1
        if len(rest) > longest:
            skipping, rest = True, b""
    if rest or skipping:
        yield number, too_long if skipping else rest.removesuffix(end)


def _decode(line: bytes) -> str:
    """Decode a line. Raises RowProblem naming the byte at fault."""
    if b"\x00" in line:
        raise RowProblem(f"the line contains a NUL character (column {line.index(0) + 1})")
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RowProblem(
            f"the line is not UTF-8 (byte 0x{line[error.start]:02X} at column {error.start + 1})"
        ) from None


def _raw(line: bytes) -> str:
    return line[:RAW_CHARACTERS].decode("utf-8", "replace")


def _filled_lines(chunks: Iterable[bytes], *, first: int) -> Iterator[tuple[int, bytes | RowProblem]]:
    lines = (line for _, line in iter_lines(chunks))
    return enumerate((line for line in lines if isinstance(line, RowProblem) or line.strip()), start=first)


def _iter_jsonl(chunks: Iterable[bytes], *, first: int) -> Iterator[NumberedRow]:
    for number, line in _filled_lines(chunks, first=first):
        if isinstance(line, RowProblem):
            yield number, line
        else:
            try:
                yield number, parse_json_row(_decode(line))
            except RowProblem as problem:
                yield number, RowProblem(problem.reason, raw=_raw(line))


def _iter_txt(chunks: Iterable[bytes], *, first: int) -> Iterator[NumberedRow]:
    """One row per document; a line `<|endoftext|>` ends a document."""
    start, parts, size = first, list[str](), 0
    for number, line in iter_lines(chunks, longest=MAX_DOCUMENT_BYTES, first=first):
        ends = isinstance(line, bytes) and line.strip() == END_OF_TEXT
        if ends or size > MAX_DOCUMENT_BYTES:
            if any(part.strip() for part in parts):
                yield start, {"text": "\n".join(parts).strip("\n")}
            start, parts, size = (number + 1 if ends else number), [], 0
        if ends:
            continue
        try:
            if isinstance(line, RowProblem):
                raise line
            parts.append(_decode(line))
            size += len(line) + 1
        except RowProblem as problem:
            yield number, RowProblem(problem.reason, raw=_raw(line) if isinstance(line, bytes) else problem.raw)
    if any(part.strip() for part in parts):
        yield start, {"text": "\n".join(parts).strip("\n")}


def _iter_prompt_lines(chunks: Iterable[bytes], *, first: int) -> Iterator[NumberedRow]:
    for number, line in _filled_lines(chunks, first=first):
        try:
            if isinstance(line, RowProblem):
                raise line
            text = _decode(line).strip()
            if text:
                yield number, {"prompt": text}
        except RowProblem as problem:
            yield number, problem


def _is_header(fields: list[str]) -> bool:
    """Return whether a first row is a header (the CSV files of MMLU have none)."""
    names = [field.strip() for field in fields]
    if any(name.lower() in _HEADER_NAMES for name in names):
        return True
    if len(set(names)) < len(names) or any(
        not name or len(name) > 64 or re.fullmatch(r"[\d.,+-]+", name) for name in names
    ):
        return False
    return not (len(names) >= 4 and re.fullmatch("[A-H]", names[-1]))


@dataclass(frozen=True)
class CsvShape:
    """Delimiter, quoting and header of a CSV file.

    `quoted` fields may hold delimiters and line ends.
    `keeps_returns`: rows end by LF alone, so a carriage return inside a field is part of it.
    """

    delimiter: str
    quoted: bool
    header: tuple[str, ...]
    has_header: bool
    keeps_returns: bool = False


def csv_shape(head: bytes, *, suffix: str) -> tuple[CsvShape, int]:
    """Find delimiter and header from the beginning of a CSV file; return them with the bytes that the header takes.

    Raises InvalidInput where there is no first row.
    """
    csv.field_size_limit(MAX_ROW_BYTES)
    quoted = suffix != ".tsv"
    delimiter = "\t" if suffix == ".tsv" else find_delimiter(head)
    taken = 0
    fields: list[str] = []
    while not fields:
        fields, size, count = _first_row(head[taken:], delimiter=delimiter, quoted=quoted)
        taken += size
        if not count:
            raise InvalidInput(
                "The CSV file has no first row.", remedy="Its first line must name the columns.", field="source"
            )
    has_header = _is_header(fields)
    header = (
        tuple(name.strip() for name in fields) if has_header else tuple(f"column{i + 1}" for i in range(len(fields)))
    )
    twice = next((name for name in header if name and header.count(name) > 1), None)
    if twice is not None:
        raise InvalidInput(
            f"Two columns are named {twice!r}.", remedy="Name each column of the CSV file differently.", field="source"
        )
    return CsvShape(delimiter, quoted, header, has_header, not head[:taken].endswith(b"\r\n")), taken


def find_delimiter(head: bytes) -> str:
    """Return the comma if it separates the first row, else that which gives it most fields and separates the second,
    which may omit empty ones at its end. A second row that the head cuts says nothing.
    """
    rows = {",": len(_first_row(head, delimiter=",", quoted=True)[0])}
    if rows[","] > 1:
        return ","
    for delimiter in (";", "\t", "|"):
        first, size, _ = _first_row(head, delimiter=delimiter, quoted=True)
        second = _whole_row(head[size:], delimiter=delimiter)
        rows[delimiter] = len(first) if not second or 1 < len(second) <= len(first) else 1
    return max(rows, key=lambda delimiter: rows[delimiter])


def _whole_row(head: bytes, *, delimiter: str) -> list[str]:
    """Return the fields of the first row; none if there is none, or the head cuts it."""
    reader = _csv_reader(_decoded_lines(head[: head.rfind(b"\n") + 1]), delimiter=delimiter, quoted=True)
    try:
        fields: list[str] = next(reader, [])
    except csv.Error as error:
        return [] if "end of data" in str(error) else ["unreadable"]
    return fields


def _decoded_lines(head: bytes) -> Iterator[str]:
    for line in io.BytesIO(head):
        yield line.rstrip(b"\r\n").decode("utf-8", "surrogateescape") + "\n"


def _first_row(head: bytes, *, delimiter: str, quoted: bool) -> tuple[list[str], int, int]:
    """Return the fields of the first row, and its bytes and lines; no fields if it can't be read."""
    reader = _csv_reader(_decoded_lines(head), delimiter=delimiter, quoted=quoted)
    try:
        fields: list[str] = next(reader, [])
        count = reader.line_num
    except csv.Error:
        count = 1
        fields = [io.BytesIO(head).readline().decode("utf-8", "replace").strip()]
    return fields, sum(map(len, itertools.islice(io.BytesIO(head), count))), count


def _csv_reader(lines: Iterable[str], *, delimiter: str, quoted: bool) -> Any:
    return csv.reader(lines, delimiter=delimiter, strict=True, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)


def iter_csv_rows(
    lines: Iterable[bytes | RowProblem], *, shape: CsvShape, first: int = 1, is_enough: Callable[[], bool] | None = None
) -> Iterator[NumberedRow]:
    """Parse the lines of a CSV file as rows, the next being number `first`; stop between two rows when `is_enough`."""
    csv.field_size_limit(MAX_ROW_BYTES)
    too_long: list[RowProblem] = []
    end = b"" if shape.keeps_returns else b"\r"
    begun: list[bytes] = []  # the first line of the row that is being read

    def texts() -> Iterator[str]:
        for line in lines:
            if not begun and isinstance(line, bytes):
                begun.append(line)
            if isinstance(line, RowProblem):
                too_long.append(line)
                yield _TOO_LONG + "\n"
            else:
                # bytes that are not UTF-8 become lone surrogates, so that quotes around them still match
                yield line.removesuffix(b"\n").removesuffix(end).decode("utf-8", "surrogateescape") + "\n"

    reader = _csv_reader(texts(), delimiter=shape.delimiter, quoted=shape.quoted)
    number = first
    while True:
        before = reader.line_num
        begun.clear()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield (
                number,
                _csv_problem(error, lines=reader.line_num - before, raw=_raw(b"".join(begun)[:RAW_CHARACTERS])),
            )
            number += 1
        else:
            if fields:
                yield number, _csv_row(fields, shape=shape, too_long=too_long)
                number += 1
        if is_enough is not None and is_enough():
            return


def _csv_problem(error: csv.Error, *, lines: int, raw: str) -> RowProblem:
    if "end of data" in str(error):
        after = "the line" if lines == 2 else f"the {lines - 1:,} lines"
        lost = f", so {after} after it can't be told apart from this row" if lines > 1 else ""
        return RowProblem(f"a quotation mark that opens here is never closed{lost}", raw=raw)
    return RowProblem(f"the row can't be read: {error} (is a quotation mark missing or too many?)", raw=raw)


def _csv_row(fields: list[str], *, shape: CsvShape, too_long: list[RowProblem]) -> dict[str, object] | RowProblem:
    line = shape.delimiter.join(fields)
    if line.strip("\n") == _TOO_LONG:
        return too_long.pop(0)
    raw = _raw(line[:RAW_CHARACTERS].encode("utf-8", "surrogateescape"))
    if "\x00" in line:
        return RowProblem("the row contains a NUL character", raw=raw)
    bad = re.search("[\udc80-\udcff]", line)
    if bad:
        return RowProblem(f"the row is not UTF-8 (byte 0x{ord(bad.group(0)) - 0xDC00:02X})", raw=raw)
    header = shape.header
    if len(fields) != len(header):
        count = f"{len(fields)} field{'s' if len(fields) != 1 else ''}"
        return RowProblem(f"the row has {count}, the header has {len(header)} ({', '.join(header)[:200]})", raw=raw)
    return dict(zip(header, fields, strict=True))


def iter_csv(chunks: Iterable[bytes], *, suffix: str) -> Iterator[NumberedRow]:
    """Parse a whole CSV file, header first; the header must be within the first chunk."""
    stream = iter(chunks)
    head = next((chunk for chunk in stream if chunk), b"")
    if not head.strip():
        return
    shape, taken = csv_shape(head, suffix=suffix)
    rest = itertools.chain([head[taken if shape.has_header else 0 :]], stream)
    yield from iter_csv_rows((line for _, line in iter_lines(rest, keep_returns=shape.keeps_returns)), shape=shape)


def iter_rows_of(
    suffix: str, chunks: Iterable[bytes], *, lines_are_prompts: bool = False, first: int = 1
) -> Iterator[NumberedRow]:
    """Parse rows from a stream of bytes whose next row (of a text: line) is number `first`.

    `lines_are_prompts` reads a .txt file as one prompt a line. Raises InvalidInput for UTF-16 and for suffixes that are
    not text.
    """
    checked = _checked(chunks) if first == 1 else chunks  # byte order marks occur only at the beginning of a file
    if suffix in TEXTS:
        return _iter_prompt_lines(checked, first=first) if lines_are_prompts else _iter_txt(checked, first=first)
    if suffix in (".jsonl", ".ndjson"):
        return _iter_jsonl(checked, first=first)
    if suffix == ".json":
        return iter_json_rows(checked, longest=MAX_ROW_BYTES)
    if suffix in (".csv", ".tsv"):
        return iter_csv(checked, suffix=suffix)
    raise InvalidInput(f"A {suffix} file is not text and can't be read as a stream.", field="source")


def sniff_bytes(name: str, head: bytes, *, limit: int = 50) -> list[dict[str, object]]:
    """Return the rows of `sniff_rows`, without the reasons of those that can't be read."""
    return sniff_rows(name, head, limit=limit)[0]


def no_rows(name: str) -> InvalidInput:
    """Return the error of a source without rows; a CSV file has a header at least."""
    if _unpacked(name)[0].endswith((".csv", ".tsv")):
        remedy = "Add rows below the header, or choose another file."
        return InvalidInput(f"The file {name[:120]!r} has a header and no rows.", remedy=remedy, field="source")
    return InvalidInput(f"The file {name!r} holds no rows.", field="source")


def sniff_rows(name: str, head: bytes, *, limit: int = 50) -> tuple[list[dict[str, object]], list[str]]:
    """Return up to `limit` whole rows from the head of a file (a megabyte is plenty), to recognise and to preview, and
    why rows between them can't be read.

    Broken rows are skipped, and so is a last row that is cut off. Parquet keeps its index at the end: see
    backend.infra.files.parquet. Raises InvalidInput for an unknown suffix, an empty head, UTF-16, or a head without one
    good row, saying what is wrong with the first.
    """
    suffix, packing = suffix_of(name)
    if not head.strip():
        raise InvalidInput(f"The file {name[:120]!r} is empty.", field="source")
    if packing == ".gz":
        try:
            head = zlib.decompressobj(wbits=31).decompress(head, 16 * 2**20)
        except zlib.error as error:
            raise InvalidInput(
                f"The file {name[:120]!r} is not compressed by gzip ({error}).", field="source"
            ) from None
    if suffix in TEXTS:  # a character may be cut in two at the end
        head = head.decode("utf-8", "ignore").encode() if not head.startswith(_UTF16) else head
    rows: list[dict[str, object]] = []
    problems: list[str] = []
    unreadable = 0
    for number, row in iter_rows_of(suffix, [head]):
        if isinstance(row, dict):
            rows.append(row)
            unreadable = len(problems)  # the text after the last good row may be cut off
            if len(rows) == limit:
                break
        else:
            problems.append(f"Row {number:,}: {row.reason}")
    if not rows:
        first_problem = f" {problems[0]}." if problems else ""
        is_cut = suffix != ".json" and len(head) >= MIN_HEAD and b"\n" not in head.rstrip()
        if suffix in (".csv", ".tsv") and not problems and not is_cut:
            raise no_rows(name)
        if is_cut:
            first_problem += f" The first line is longer than the {len(head):,} bytes that a preview reads."
        raise InvalidInput(
            f"No row of {name[:120]!r} can be read.{first_problem}",
            remedy="Correct that, or export the data again as text or as a list of records.",
            field="file",
        )
    return rows, problems[:unreadable]
