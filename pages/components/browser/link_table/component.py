"""A table whose rows lead to their pages, drawn as one element: a row of Streamlit's own is a dozen of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlencode

import streamlit as st

from pages.components import routes
from pages.components.browser.modules import declare_component

_table = declare_component("roundhouse_link_table", '<div class="lt-host"></div>', "link_table/table.js")

Tone = Literal["", "strong", "faint", "bad"]


@dataclass(frozen=True)
class LinkRow:
    """A row: its name behind an icon, the page that it leads to, if any, and the text and tone of its other cells."""

    name: str
    icon: str
    cells: Sequence[tuple[str, Tone]]
    page: str | None = None
    query: Mapping[str, str] = field(default_factory=dict)

    @property
    def href(self) -> str:
        """Return the address that the row leads to; empty if it leads nowhere."""
        return f"{routes.address(self.page)}?{urlencode(self.query)}" if self.page is not None else ""


def link_table(
    columns: Mapping[str, float], rows: Sequence[LinkRow], *, key: str, label: str, num_shown: int = 0, fold: str = ""
) -> None:
    """Draw rows under columns, given by title and share of the width, and go where a row leads when it is opened. Rows
    after the first `num_shown`, where given, are behind a fold of that title. A narrow table becomes cards.
    """
    total = sum(columns.values())
    drawn = [
        {
            "href": row.href,
            "cells": [
                {"text": row.name, "icon": row.icon},
                *({"text": text, "tone": tone} for text, tone in row.cells),
            ],
        }
        for row in rows
    ]
    first = num_shown or len(rows)
    result = _table(
        key=key,
        data={
            "label": label,
            "columns": [{"title": title, "width": f"{100 * share / total:.2f}%"} for title, share in columns.items()],
            "rows": drawn[:first],
            "folded": drawn[first:],
            "fold": fold,
        },
        on_opened_change=lambda: None,
    )
    opened = next((row for row in rows if row.href and row.href == result.opened), None)
    if opened is not None and opened.page is not None:
        st.switch_page(opened.page, query_params=opened.query)
