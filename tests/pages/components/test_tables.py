"""Tables of plain values: what stands in a cell, and what a name can do to the style sheet."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from streamlit.testing.v1 import AppTest

from pages.components.tables import WidgetTable, format_cell


@pytest.mark.parametrize(
    ("value", "spec", "text"),
    [
        (None, None, "–"),
        (float("nan"), None, "–"),
        ("", None, "–"),
        (True, None, "yes"),
        (1234567, None, "1,234,567"),
        (0.123456, None, "0.1235"),
        (0.5, ".2f", "0.50"),
        (datetime(2020, 11, 26, 23, 49, 44, tzinfo=UTC), None, "26 Nov 2020, 23:49 UTC"),
        ("val_loss", None, "val_loss"),
    ],
    ids=str,
)
def test_a_cell_is_formatted_for_readers(value: object, spec: str | None, text: str) -> None:
    assert format_cell(value, spec) == text


def _draw_hostile() -> None:
    from pages.components.tables import draw_table

    draw_table([{'"}</style><img src=x>': "![x](http://evil.example/a.png)"}], key="hostile", alt="A hostile table")


def test_a_hostile_column_title_stays_inside_its_string() -> None:
    app = AppTest.from_function(_draw_hostile, default_timeout=200).run()
    style = app.get("html")[0].proto.body
    assert "<img" not in style
    assert style.count("</style>") == 1
    assert "![x](" not in str(app.table[0].value)


def test_a_card_begins_with_its_heading_and_labels_the_other_columns() -> None:
    table = WidgetTable("ranks", {"Rank": 1, "Checkpoint": 2, " ": 1}, heading=2)
    style = table._css()
    assert ':nth-child(1)::before{content:"Rank"}' in style
    assert '"Checkpoint"' not in style
    assert ":nth-child(3)::before" not in style


def test_a_table_finds_itself_whatever_is_in_its_name() -> None:
    style = WidgetTable("requests-llama3.1:8b", {"When": 1, "Result": 2})._css()
    assert ".st-key-table-requests-llama3-1-8b{" in style
    assert "llama3.1" not in style
