"""The exception about a single row of a dataset."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NotRequired

from typing_extensions import TypedDict

from backend.domain.wording import plural
from backend.errors import InvalidInput

FEW_REJECTED = 0.01
"""Share of rejected rows above which an import asks first and its page warns."""
_DETAIL = re.compile(r"\d+(?:[.,]\d+)*|'[^']*'|\"[^\"]*\"")
MAX_REASONS, SHOWN_REASONS = 200, 3


class RowProblem(InvalidInput):
    """A row that can't be used. `reason` is shown to the file's owner; `raw` is the beginning of the row, if known."""

    def __init__(self, reason: str, *, raw: str = "") -> None:
        super().__init__(reason, field="mapping")
        self.reason, self.raw = reason, raw


@dataclass(frozen=True)
class BadRow:
    """A rejected row: its file ("" if there is only one), its line or row (from 1), the reason, and its beginning."""

    file: str
    row: int
    reason: str
    raw: str = ""

    @property
    def place(self) -> str:
        """File and row, as shown to a person."""
        return place_of(self.as_dict(raw=0))

    def as_dict(self, *, raw: int) -> RejectedRow:
        """Return plain values; of the raw row at most `raw` characters."""
        rest: RejectedRow = {"row": self.row, "reason": self.reason, "raw": self.raw[:raw]}
        return {"file": self.file, **rest} if self.file else rest


class RejectedRow(TypedDict):
    """A rejected row as it is stored and printed; `file` only of several."""

    file: NotRequired[str]
    row: int
    reason: str
    raw: str


class RejectReason(TypedDict):
    """Number of rows that were rejected for a reason, and the first of them; `file` only of several."""

    file: NotRequired[str]
    rows: int
    reason: str
    row: int


def place_of(row: RejectedRow | RejectReason) -> str:
    """Return file and row, as shown to a person."""
    return f"{row['file']}, row {row['row']:,}" if row.get("file") else f"row {row['row']:,}"


def count_reason(reasons: dict[str, RejectReason], bad: RejectedRow) -> None:
    """Count a rejected row under its reason; reasons that differ only in numbers and quoted values are one."""
    pattern = _DETAIL.sub("…", bad["reason"])
    if pattern in reasons:
        reasons[pattern]["rows"] += 1
    elif len(reasons) < MAX_REASONS:
        reasons[pattern] = {"rows": 1, "reason": bad["reason"], "row": bad["row"]}
        if "file" in bad:
            reasons[pattern]["file"] = bad["file"]


def most_frequent(reasons: Iterable[RejectReason]) -> list[str]:
    """Return the most frequent reasons as text: `85 rows: the text is empty (first: row 12)`, of several files
    `(first: tales.csv, row 12)`.
    """
    ordered = sorted(reasons, key=lambda one: -one["rows"])
    num = len(ordered) if len(ordered) == SHOWN_REASONS + 1 else SHOWN_REASONS
    lines = [f"{plural(one['rows'], 'row')}: {one['reason']} (first: {place_of(one)})" for one in ordered[:num]]
    rest = sum(one["rows"] for one in ordered[num:])
    return [*lines, *([f"{plural(rest, 'row')}: other reasons"] if rest else [])]


def describe_rejected(rejected: int, rows: int, filtered: Mapping[str, int]) -> str:
    """Return how many of the rows read were rejected: `144 of 999 rows (14.4 %)`. `filtered` counts those that filters
    left out, by reason.
    """
    total = rejected + rows + sum(filtered.values())
    return f"{rejected:,} of {plural(total, 'row')} ({100 * rejected / max(1, total):.3g} %)"


def kind_of_value(value: Any) -> str:
    """Return the type of a JSON or Parquet value with its article.

    >>> kind_of_value({"x": 1})
    'an object'
    """
    words = {
        bool: "a truth value",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "an object",
        bytes: "bytes",
    }
    return "nothing" if value is None else words.get(type(value), f"a {type(value).__name__}")
