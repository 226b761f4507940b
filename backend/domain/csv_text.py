"""CSV files that people open in a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import TypeVar

FORMULA = ("=", "+", "-", "@", "\t", "\r")
Cell = TypeVar("Cell")


def safe_cell(cell: Cell) -> Cell | str:
    """Return a cell that no spreadsheet reads as a formula: a text that begins like one gets an apostrophe before it.

    >>> safe_cell("=1+1"), safe_cell(-1)
    ("'=1+1", -1)
    """
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def write_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """Return rows as CSV with a head line; what is missing is an empty cell."""
    titles = list(dict.fromkeys(title for row in rows for title in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, titles, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({title: safe_cell(value) for title, value in row.items()})
    return out.getvalue()
