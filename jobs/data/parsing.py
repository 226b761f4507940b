"""Parse a block into canonical rows: by whole columns if every row is regular, else row by row, reporting bad ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow
import pyarrow.json

from backend.domain.data.kinds import DatasetKind
from backend.domain.data.parsing.text_formats import (
    END_OF_TEXT,
    RAW_CHARACTERS,
    NumberedRow,
    iter_csv_rows,
    iter_lines,
    iter_rows_of,
)
from backend.domain.data.rows.mapping import map_rows
from backend.domain.data.rows.problem import BadRow, RowProblem
from backend.domain.data.rows.records import KEEPS_RECORDS, with_record
from backend.domain.data.rows.values import cell_text
from backend.infra.files.encoding import guess_encoding
from jobs.data.columns import ColumnPlan
from jobs.data.readers import Bytes, RowBlock, SourceRows, csv_columns
from jobs.data.row_keys import RowKeys, is_blank
from jobs.data.schemas import SCHEMAS

SLICE_ROWS = 1000
FIRST_BYTES = 2**16  # a block read row by row is parsed in pieces, as a preview needs only its first rows


@dataclass(frozen=True)
class Parsed:
    """The good rows of a block as canonical columns with their keys, and the bad ones. `dropped` counts the rows that a
    filter left out, by reason.
    """

    block: RowBlock
    table: pyarrow.Table
    keys: RowKeys
    bad: tuple[BadRow, ...]
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Parser:
    """Parses blocks of one source. `plan` is None if its columns have no usual spelling."""

    kind: DatasetKind
    mapping: Mapping[str, str]
    plan: ColumnPlan | None

    @property
    def keeps_records(self) -> bool:
        """Return whether every column of the source is read, mapped or not."""
        return self.kind in KEEPS_RECORDS

    def parse(self, block: RowBlock) -> Parsed:
        """Return a block's rows. Bad rows do not raise."""
        table = self._by_columns(block)
        bad: tuple[BadRow, ...] = ()
        if table is None:
            table, bad = self._by_rows(block)
        return Parsed(block, table, RowKeys(table), bad)

    def _by_columns(self, block: RowBlock) -> pyarrow.Table | None:
        if self.plan is None or block.rows is not None:
            return None
        try:
            table = _table_of(block, self.plan)
        except (pyarrow.ArrowException, UnicodeDecodeError):
            return None
        return None if table is None else self.plan.apply(table, is_checked=block.suffix in (".csv", ".txt"))

    def _by_rows(self, block: RowBlock) -> tuple[pyarrow.Table, tuple[BadRow, ...]]:
        tables: list[pyarrow.Table] = []
        good: list[dict[str, object]] = []
        bad: list[BadRow] = []
        for number, row in rows_of(block):
            for part in (row,) if isinstance(row, RowProblem) else map_rows(row, kind=self.kind, mapping=self.mapping):
                if isinstance(part, RowProblem):
                    bad.append(BadRow(block.file, number, part.reason, part.raw or shown(row)))
                elif self.keeps_records and not isinstance(row, RowProblem):
                    good.append(with_record(part, row, file=block.file))
                else:
                    good.append(part)
            if len(good) >= SLICE_ROWS:
                tables.append(pyarrow.Table.from_pylist(good, schema=SCHEMAS[self.kind]))
                good = []
        tables.append(pyarrow.Table.from_pylist(good, schema=SCHEMAS[self.kind]))
        return pyarrow.concat_tables(tables), _with_encoding(bad, block)


def shown(row: Mapping[str, Any] | RowProblem) -> str:
    """Return the beginning of a row as JSON; empty if it can't be written."""
    return "" if isinstance(row, RowProblem) else cell_text(row)[:RAW_CHARACTERS]


def _with_encoding(bad: list[BadRow], block: RowBlock) -> tuple[BadRow, ...]:
    """Add the likely encoding to the reasons of rows that are not UTF-8."""
    faulty = [row for row in bad if " not UTF-8 (" in row.reason]
    if not faulty or not block.data:
        return tuple(bad)
    lines = [line for _, line in iter_lines([bytes(block.data)]) if isinstance(line, bytes) and not _is_utf8(line)]
    guess = guess_encoding(b"\n".join(lines[:200]))
    if guess is None:
        return tuple(bad)
    hint = f"; it may be {guess}: import it again with that encoding"
    return tuple(BadRow(row.file, row.row, row.reason + hint, row.raw) if row in faulty else row for row in bad)


def rows_of(block: RowBlock) -> Iterator[NumberedRow]:
    """Yield the rows of a block one by one, with a RowProblem in place of an unreadable one."""
    if block.rows is not None:
        yield from block.rows
    elif block.table is not None:
        yield from _table_rows(block.table, first=block.first)
    elif block.suffix == ".csv":
        assert block.shape is not None
        lines = (line for _, line in iter_lines(_pieces(block.data), keep_returns=block.shape.keeps_returns))
        yield from iter_csv_rows(lines, shape=block.shape, first=block.first)
    elif block.suffix == ".lines":
        yield from iter_rows_of(".txt", _pieces(block.data), lines_are_prompts=True, first=block.first)
    elif block.suffix == ".txt" and (texts := _documents(block.data, first=block.first)) is not None:
        yield from ((number, {"text": text.decode()}) for number, text in texts)
    else:
        yield from iter_rows_of(block.suffix, _pieces(block.data), first=block.first)


def iter_source(rows: SourceRows, columns: Iterable[str]) -> Iterator[dict[str, object]]:
    """Yield every row of a source that can be read, with these columns at least."""
    for block in rows.blocks(columns=tuple(columns)):
        yield from (row for _, row in rows_of(block) if not isinstance(row, RowProblem))


def _pieces(data: Bytes) -> Iterator[bytes]:
    return (bytes(data[part]) for part in (slice(FIRST_BYTES), slice(FIRST_BYTES, None)))


def _table_rows(table: pyarrow.Table, *, first: int) -> Iterator[NumberedRow]:
    for start in range(0, table.num_rows, 64):
        part = table.slice(start, 64)
        try:
            rows: list[dict[str, object] | RowProblem] = part.to_pylist()
        except UnicodeDecodeError:
            rows = [_table_row(part.slice(place, 1)) for place in range(part.num_rows)]
        yield from enumerate(rows, start=first + start)


def _table_row(row: pyarrow.Table) -> dict[str, object] | RowProblem:
    try:
        value: dict[str, object] = row.to_pylist()[0]
    except UnicodeDecodeError as error:
        return RowProblem(f"the row is not UTF-8 ({error.reason})")
    return value


def _table_of(block: RowBlock, plan: ColumnPlan) -> pyarrow.Table | None:
    """Parse a block with Arrow's parsers; None where they may be more lenient than ours."""
    if block.table is not None:
        return block.table
    if block.suffix == ".txt":
        texts = _documents(block.data)
        return (
            None
            if texts is None
            else pyarrow.table({"text": pyarrow.array([text for _, text in texts], pyarrow.string())})
        )
    if not _is_utf8(block.data):
        return None
    if block.suffix == ".jsonl":
        return _json_table(block.data, plan)
    if block.suffix == ".csv":
        assert block.shape is not None
        assert block.marks is not None
        names = [column for column in plan.columns.values() if column in block.shape.header]
        return None if b"\x00" in block.data else csv_columns(block.data, block.marks, block.shape, names)
    return None


def _is_utf8(data: Bytes) -> bool:
    """Return whether bytes are UTF-8; many times faster than decoding them."""
    offsets = np.array([0, len(data)], dtype=np.int32)
    text = pyarrow.StringArray.from_buffers(1, pyarrow.py_buffer(offsets), pyarrow.py_buffer(data))
    try:
        text.validate(full=True)
    except pyarrow.ArrowInvalid:
        return False
    return True


def _json_table(data: Bytes, plan: ColumnPlan) -> pyarrow.Table | None:
    """Parse JSON lines if each line is exactly one object."""
    characters = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero(characters == 0x0A)
    if not data.endswith(b"\n"):
        ends = np.append(ends, len(data))
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts < 2).any():
        return None
    last = characters[ends - 1]
    if b"\r" in data:
        last = np.where(last == 0x0D, characters[ends - 2], last)
    if (characters[starts] != ord("{")).any() or (last != ord("}")).any():
        return None
    table = pyarrow.json.read_json(
        pyarrow.BufferReader(data),
        read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=max(2**20, len(data) + 1)),
        parse_options=pyarrow.json.ParseOptions(explicit_schema=plan.schema(), unexpected_field_behavior="ignore"),
    )
    return table if table.num_rows == len(ends) else None


def _documents(data: Bytes, *, first: int = 1) -> list[tuple[int, bytes]] | None:
    """Split texts at their marks, as parsing/text_formats.py does by lines; None if one may be invalid."""
    if b"\x00" in data or not _is_utf8(data):
        return None
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").removesuffix(b"\r")
    texts: list[tuple[int, bytes]] = []
    start, place, number = 0, 0, first
    while place >= 0:
        place = data.find(END_OF_TEXT, place)
        line = data.rfind(b"\n", 0, place) + 1 if place >= 0 else len(data)
        end = data.find(b"\n", place) if place >= 0 else len(data)
        end = len(data) if end < 0 else end
        if place >= 0 and data[line:end].strip() != END_OF_TEXT:
            place += 1
            continue
        text = bytes(memoryview(data)[start:line]).strip(b"\n")
        if not is_blank(text):
            texts.append((number, text))
        if place >= 0:
            number += data.count(b"\n", start, end + 1)
            start, place = end + 1, end
    return texts
