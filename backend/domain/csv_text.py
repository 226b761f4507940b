"""Cells of CSV files that people open in a spreadsheet."""

from __future__ import annotations

from typing import TypeVar

FORMULA = ("=", "+", "-", "@", "\t", "\r")
Cell = TypeVar("Cell")


def safe_cell(cell: Cell) -> Cell | str:
    """Return a cell that no spreadsheet reads as a formula: a text that begins like one gets an apostrophe before it.

    >>> safe_cell("=1+1"), safe_cell(-1)
    ("'=1+1", -1)
    """
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell
