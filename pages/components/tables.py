"""Tables that become labelled cards when narrow: rows of widgets, and rows of plain values.

The browser measures the table itself (a CSS container query), so a narrow column of a wide window gets cards too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Literal

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from pages.components.frame import plain
from pages.components.words import date_time

CARDS_BELOW = "44rem"
"""Width of a table below which its rows are cards."""

MISSING = "–"


class WidgetTable:
    """A table whose cells hold widgets.

    `columns` holds the share of the width of each title; a blank title draws none. `heading` is the column that a card
    begins with, drawn without its title.

    TABLE = WidgetTable("datasets", {"Name": 2.6, "Kind": 1.7})
    with TABLE.frame():
        for dataset in datasets:
            name, kind = TABLE.row(dataset.id)
    """

    def __init__(
        self,
        name: str,
        columns: Mapping[str, float],
        *,
        heading: int = 1,
        alignment: Literal["center", "top"] = "center",
    ) -> None:
        self.name = _css_class(name)
        self.columns, self.heading, self.alignment = dict(columns), heading, alignment

    @contextmanager
    def frame(self) -> Iterator[None]:
        """Draw the border, the column titles and the style; rows go inside."""
        with st.container(border=True, gap="xsmall", key=f"table-{self.name}"):
            st.html(f"<style>{self._css()}</style>")
            with st.container(key=f"tablehead-{self.name}"):
                for cell, title in zip(st.columns(list(self.columns.values())), self.columns, strict=True):
                    cell.caption(plain(title.strip()))
            yield

    def row(self, key: str) -> list[DeltaGenerator]:
        """Return the cells of a new row. `key` is unique in the table."""
        with st.container(key=f"tablerow-{self.name}-{key}"):
            return st.columns(list(self.columns.values()), vertical_alignment=self.alignment)

    def _css(self) -> str:
        table, row = f".st-key-table-{self.name}", f"[class*=st-key-tablerow-{self.name}-]"
        cell = f"{row} .stColumn"
        labels = "".join(
            f"{cell}:nth-child({number})::before{{content:{_css_string(title.strip())}}}"
            for number, title in enumerate(self.columns, start=1)
            if number != self.heading and title.strip()
        )
        between = f":not(:last-child)>{row}"
        line = f"{between}{{border-bottom:1px solid color-mix(in srgb,currentColor 18%,transparent)}}"
        lines = f"{line}{between}{{padding-bottom:.5rem}}" if self.alignment == "top" else ""  # rows of several lines
        return lines + (
            f"{table}{{container-type:inline-size;width:100%}}@container (max-width:{CARDS_BELOW}){{"
            f":has(>.st-key-tablehead-{self.name}){{display:none}}"
            f"{row}{{padding-block:.35rem}}{line}{row} .stHorizontalBlock{{flex-wrap:wrap;gap:.2rem 0}}"
            f"{cell}{{flex:1 1 100%;min-width:100%;width:100%;display:flex;flex-direction:row;align-items:center;"
            f"gap:.5rem}}{cell}>*{{flex:1 1 0;min-width:0}}"
            f"{cell}:not(:nth-child({self.heading}))::before{{flex:0 0 6.5rem;font-size:.8rem;opacity:.75}}"
            f"{cell}:not(:has(.stElementContainer)){{display:none}}{labels}}}"
        )


def draw_pager(pages: int, *, query: object) -> int:
    """Draw the choice of a page of rows where there are several, and return it. Another query begins at the first page.

    Only the pager knows its page after a step back in the browser, so draw it before the rows, which go into a
    container above it.
    """
    if st.session_state.get("page_query", query) != query:
        st.session_state["page"] = 1
    st.session_state["page_query"] = query
    if pages <= 1:
        return 1
    if "page" in st.session_state:
        st.session_state["page"] = min(int(st.session_state["page"]), pages)  # rows may have been deleted
    return int(st.pagination(pages, key="page", bind="query-params"))


def draw_table(
    rows: Sequence[Mapping[str, object]], *, key: str, alt: str, formats: Mapping[str, str] | None = None
) -> None:
    """Draw rows of values as text; a narrow table becomes one card per row.

    `formats` holds a format specification for a column's numbers: `{"Rating": ".0f"}`. A missing value is drawn as a
    dash.
    """
    if not rows:
        return
    titles = list(dict.fromkeys(title for row in rows for title in row))
    texts = [{title: format_cell(row.get(title), (formats or {}).get(title)) for title in titles} for row in rows]
    with st.container(key=f"cards-{key}"):
        st.html(f"<style>{_cards_css(f'cards-{key}', titles)}</style>")
        st.table(
            [{plain(title): plain(text) for title, text in row.items()} for row in texts],
            border="horizontal",
            hide_index=True,
            alt=alt,
        )


def format_cell(value: object, spec: str | None = None) -> str:
    """Format a value: a number by its format, a time in the visitor's time zone, a missing value as a dash."""
    if value is None or value == "" or value != value:
        return MISSING
    if isinstance(value, datetime):
        return date_time(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return format(value, spec or (",d" if isinstance(value, int) else ",.4g"))
    return str(value).replace(" %", "\u00a0%")  # a narrow column breaks elsewhere


def _cards_css(key: str, titles: Sequence[str]) -> str:
    table = f".st-key-{_css_class(key)}"
    labels = "".join(
        f"{table} td:nth-child({number})::before{{content:{_css_string(title)}}}"
        for number, title in enumerate(titles, 1)
        if title
    )
    return (
        f"{table}{{container-type:inline-size;width:100%}}{table} table{{width:100%}}@container"
        f" (max-width:{CARDS_BELOW}){{{table} thead{{display:none}}{table}"
        " tr{display:block;padding-block:.4rem;border-bottom:1px solid color-mix(in srgb,currentColor"
        f" 18%,transparent)}}{table} td{{display:flex;gap:.5rem;border:0;padding:.1rem"
        f" 0!important;text-align:left;overflow-wrap:anywhere}}{table} td::before{{flex:0 0"
        f" 8rem;font-size:.8rem;opacity:.75;overflow-wrap:normal}}{table} td"
        f" *{{min-width:0;overflow-wrap:anywhere}}{labels}}}"
    )


def _css_class(key: str) -> str:
    """Return the class that Streamlit makes of a key."""
    return "".join(letter if (letter.isalnum() and letter.isascii()) or letter in "-_" else "-" for letter in key)


def _css_string(text: str) -> str:
    """Quote a text for a style sheet: all but letters, digits and blanks become code points: no name can end it."""
    return (
        '"'
        + "".join(
            letter if letter == " " or (letter.isascii() and letter.isalnum()) else f"\\{ord(letter):x} "
            for letter in text
        )
        + '"'
    )
