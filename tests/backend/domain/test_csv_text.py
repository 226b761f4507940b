"""Cells that a spreadsheet would compute."""

from __future__ import annotations

import pytest

from backend.domain.csv_text import safe_cell


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r"])
def test_a_text_that_begins_like_a_formula_is_quoted_and_nothing_else_is(begin: str) -> None:
    assert safe_cell(f"{begin}1+1") == f"'{begin}1+1"
    assert [safe_cell(cell) for cell in ("", "a=1", -1.5, None)] == ["", "a=1", -1.5, None]
