"""Rows of a version: all of them in batches, or a few by number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow

from backend.domain.data.reports.report import RowRef
from backend.domain.data.rows.display import message_text
from backend.domain.data.rows.mapping import clean_row
from backend.domain.data.splits import SPLITS, Split
from backend.domain.json_values import Row
from backend.domain.wording import shorten
from backend.errors import JobFailed
from backend.infra.files.parquet import fetch_rows
from jobs.modeling.dataset_files import iter_rows, iter_tables, num_rows

BATCH_ROWS = 256
BATCH_CHARACTERS = 4_000_000
EXCERPT = 280


@dataclass(frozen=True)
class RowBatch:
    """Consecutive rows. `first` is the number of the first, counted from 0 through train, then val."""

    split: Split
    first: int
    rows: list[Row]


class VersionRows:
    """Rows of a version's folder, numbered consecutively through both splits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts = {split: _count(folder, split) for split in SPLITS}
        self.total = sum(self.counts.values())
        self.num_train = self.counts["train"]

    def batches(self) -> Iterator[RowBatch]:
        """Yield all rows, a few hundred at a time, fewer if they are long."""
        first = 0
        for split in SPLITS:
            if not self.counts[split]:
                continue
            rows = iter_rows(self.folder, split=split)
            while block := _take(rows):
                yield RowBatch(split, first, block)
                first += len(block)

    def stream(self, numbers: npt.NDArray[np.int64]) -> Iterator[tuple[int, Row]]:
        """Yield some rows by number, ascending."""
        first = 0
        for split in SPLITS:
            for table in iter_tables(self.folder, split=split, num_rows=BATCH_ROWS) if self.counts[split] else ():
                begin, end = np.searchsorted(numbers, [first, first + table.num_rows]).tolist()
                if begin < end:
                    chosen = table.take(numbers[begin:end] - first).to_pylist()
                    yield from zip(numbers[begin:end].tolist(), map(clean_row, chosen), strict=True)
                first += table.num_rows

    def place(self, number: int) -> tuple[Split, int]:
        """Return split and number in it, counted from 0."""
        return ("train", number) if number < self.num_train else ("val", number - self.num_train)

    def ref(self, number: int, text: str = "") -> RowRef:
        """Return a row's reference for a report."""
        split, row = self.place(number)
        return RowRef(split=split, row=row + 1, text=excerpt(text))

    def fetch(self, numbers: Sequence[int]) -> dict[int, Row]:
        """Return some rows by number. Reads only the row groups that hold them."""
        rows: dict[int, Row] = {}
        for split, offset in (("train", 0), ("val", self.num_train)):
            in_split = sorted({number - offset for number in numbers if self.place(number)[0] == split})
            if in_split:
                rows |= {
                    offset + row: value for row, value in fetch_rows(self.folder / f"{split}.parquet", in_split).items()
                }
        return rows


def _count(folder: Path, split: Split) -> int:
    if not (folder / f"{split}.parquet").is_file():
        return 0
    try:
        return num_rows(folder, split=split)
    except pyarrow.ArrowInvalid as error:
        raise JobFailed(
            f"The dataset's file {split}.parquet can't be read: {error}", remedy="Import the dataset again."
        ) from error


def _take(rows: Iterator[Row]) -> list[Row]:
    block: list[Row] = []
    size = 0
    for row in islice(rows, BATCH_ROWS):
        block.append(row)
        size += sum(len(part) for part in parts_of(row))
        if size > BATCH_CHARACTERS:
            break
    return block


def parts_of(row: Mapping[str, Any]) -> list[str]:
    """Return the texts of a row in reading order: fields, turns (each with its calls of tools), choices."""
    parts: list[str] = []

    def visit(value: Any) -> None:
        if isinstance(value, str):
            parts.append(value)
        elif isinstance(value, dict):
            parts.append(message_text(value))
        elif isinstance(value, list):
            for part in value:
                visit(part)

    for name, value in row.items():
        if name != "tools":  # descriptions of functions, equal in every row
            visit(value)
    return parts


def row_prompt(row: Mapping[str, Any]) -> str:
    """Return the prompt of a row: everything before the first answer; empty for rows without one."""
    if isinstance(row.get("messages"), list):
        before = []
        for message in row["messages"]:
            if message["role"] == "assistant":
                break
            before.append(str(message.get("content") or ""))
        return "\n".join(before)
    prompt = row.get("prompt") if "completion" in row or "chosen" in row else None
    if isinstance(prompt, list):
        return "\n".join(str(message.get("content") or "") for message in prompt)
    return str(prompt or "")


def excerpt(text: str) -> str:
    """Return the beginning of a text, on one line."""
    return shorten(" ".join(text[: 4 * EXCERPT].split()), EXCERPT)
