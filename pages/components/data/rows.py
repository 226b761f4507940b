"""Rows of a version: search, filters and order, a page of rows or one row by itself. The address says which."""

from __future__ import annotations

from typing import Literal

import numpy as np
import streamlit as st

from backend.domain.wording import plural
from backend.errors import InvalidInput, NotFound
from backend.services.context import Context
from backend.services.data.preview import preview_rows
from backend.services.data.rows import (
    FoundRows,
    Order,
    RowQuery,
    RowView,
    Unit,
    find_rows,
    has_turns,
    parts_of_rows,
    place_of_row,
    read_rows,
    token_counts,
)
from backend.services.data.views import VersionView
from backend.services.evaluation.safety.probes import probe_of
from pages.components.browser.data_rows.component import ShownRow, data_rows
from pages.components.choices import choose_one
from pages.components.evaluation.folding import folded
from pages.components.frame import show_error, warn_unknown
from pages.components.numbers import draw_number, number_form
from pages.components.tables import draw_pager

PAGE_ROWS = 10
LONG_ROW = 2400  # characters; a longer text scrolls in its own box
ORDERS: dict[str, Order] = {"As stored": "row", "Longest first": "longest", "Shortest first": "shortest"}
TURNS_FIRST = "Most turns first"
ALL, TRAIN, VALIDATION = "All", "Train", "Validation"
UNITS: dict[str, Unit] = {"Characters": "characters", "Tokens": "tokens"}


def draw_rows(ctx: Context, version: VersionView, *, is_open: bool = True) -> None:
    """Draw the rows that the address asks for; behind another tab the filters alone, which keep their values."""
    if not version.train_rows + version.val_rows:
        st.caption("No rows.")
        return
    with folded(probe_of(version.provenance) is not None, label="Rows (may be harmful)"):
        if version.is_one_text:
            _draw_text(ctx, version)
            return
        query = _draw_query(ctx, version)
        if not is_open:
            return
        try:
            with st.spinner("Reading rows", show_time=True):
                passing = find_rows(ctx, version, query)
        except InvalidInput as error:
            show_error(error)
            return
        if (name := st.query_params.get("row")) is not None:
            try:
                _draw_one(ctx, version, passing, place_of_row(version, name), searched=query.text)
                return
            except NotFound:
                warn_unknown("row", name, instead="all rows are shown")
        _draw_list(ctx, version, passing, query)


def _draw_text(ctx: Context, version: VersionView) -> None:
    """Draw the beginning of a version that is one text, or of its last part."""
    split = TRAIN
    if version.val_rows:
        split = choose_one("Split", [TRAIN, VALIDATION], key="split", bind="query-params")
    for row in preview_rows(ctx, version, split="val" if split == VALIDATION else "train", limit=1):
        st.code(row.text, language=None, wrap_lines=True, height=320 if len(row.text) > LONG_ROW else "content")


def _draw_query(ctx: Context, version: VersionView) -> RowQuery:
    """Draw search, filters and order; return what they ask for."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        text = st.text_input(
            "Search", key="find", bind="query-params", placeholder="Text in rows", width=180, max_chars=400
        )
        part: str | None = None
        if len(parts := parts_of_rows(version)) > 1:
            part = st.selectbox(
                "Part", parts, index=None, key="part", bind="query-params", placeholder="Whole row", width=140
            )
        split = ALL
        if version.train_rows and version.val_rows:
            splits = [ALL, TRAIN, VALIDATION]
            split = choose_one("Split", splits, default=ALL, key="split", bind="query-params")
        label: str | None = None
        if version.kind == "kto":
            label = st.segmented_control("Label", ["Good", "Bad"], key="label", bind="query-params")
        orders = [*ORDERS, *([TURNS_FIRST] if has_turns(version) else [])]
        order = st.selectbox(
            "Order",
            orders,
            key="order",
            bind="query-params",
            width=160,
            help="As stored: the training rows, then the validation rows, each in the file's order, with numbers of"
            " their own.",
        )
        at_least, at_most, unit = _draw_lengths(ctx, version)
    return RowQuery(
        text=text or "",
        part=part or "",
        split={TRAIN: "train", VALIDATION: "val"}.get(split),  # type: ignore[arg-type]
        label={"Good": "good", "Bad": "bad"}.get(label or ""),  # type: ignore[arg-type]
        at_least=at_least,
        at_most=at_most,
        unit=unit,
        order=ORDERS.get(order, "turns"),
    )


@number_form
def _draw_lengths(ctx: Context, version: VersionView) -> tuple[int | None, int | None, Unit]:
    counted = token_counts(ctx, version)
    unit = "Characters"
    if counted is not None:
        unit = st.selectbox(
            "Length in",
            list(UNITS),
            index=1,
            key="unit",
            bind="query-params",
            width=140,
            help=f"Tokens of {counted[1]}, as the newest data report counted them.",
        )
    bounds = [
        draw_number(
            st,
            name,
            0,
            10**12,
            key=key,
            bind="query-params",
            width=125,
            placeholder="any",
            help=f"Length of the row in {unit.lower()}.",
        )
        for name, key in (("Min length", "from"), ("Max length", "to"))
    ]
    return bounds[0], bounds[1], UNITS[unit]


def _draw_list(ctx: Context, version: VersionView, passing: FoundRows, query: RowQuery) -> None:
    total, number = version.train_rows + version.val_rows, len(passing.places)
    unit = "part" if version.is_cut else "row"
    parts = [plural(number, unit)] if query.is_plain else [f"{number:,} of {plural(total, unit)}"]
    if passing.scanned < total and not query.is_plain:
        parts.append(f"only the first {passing.scanned:,} were searched: the others are too many for a page")
    st.caption(" · ".join(parts))
    if not number:
        return
    rows = st.container()
    page = draw_pager(-(-number // PAGE_ROWS), query=(version.id, query))
    places = passing.places[(page - 1) * PAGE_ROWS : page * PAGE_ROWS].tolist()
    with rows:
        action = data_rows(
            [shown_row(version, row) for row in read_rows(ctx, version, places)],
            key=f"rows_{version.id}",
            label="Rows",
            searched=query.text,
        )
    if action.opened:
        st.query_params["row"] = action.opened
        st.rerun()


def _draw_one(ctx: Context, version: VersionView, passing: FoundRows, place: int, *, searched: str) -> None:
    at = np.flatnonzero(passing.places == place)
    index = int(at[0]) if len(at) else None
    number = len(passing.places)
    bar = st.container(horizontal=True, vertical_alignment="center")
    steps: dict[Literal["close", "previous", "next"], bool] = {
        "close": bar.button("All rows", icon=":material/arrow_back:", key="row_close", type="tertiary"),
        "previous": bar.button(
            "Previous", icon=":material/chevron_left:", key="row_previous", disabled=not index, help="← or K"
        ),
        "next": bar.button(
            "Next",
            icon=":material/chevron_right:",
            key="row_next",
            disabled=index is None or index + 1 >= number,
            help="→ or J",
        ),
    }
    bar.caption(
        f"{index + 1:,} of {number:,}" if index is not None else "This row does not pass the filters above.",
        width="content",
    )
    rows = [shown_row(version, row) for row in read_rows(ctx, version, [place])]
    action = data_rows(rows, key=f"row_{version.id}", label="Row", searched=searched, is_whole=True, keys=True)
    step = next((name for name, is_asked in steps.items() if is_asked), action.moved)
    if step == "close":
        st.query_params.pop("row")
        if index is not None:
            st.session_state["page"] = index // PAGE_ROWS + 1
            st.session_state.pop("page_query", None)  # filters may have changed beside the row
        st.rerun()
    target = index + (1 if step == "next" else -1) if step and index is not None else -1
    if 0 <= target < number:
        st.query_params["row"] = _name(version, int(passing.places[target]))
        st.rerun()


def _name(version: VersionView, place: int) -> str:
    return f"train-{place + 1}" if place < version.train_rows else f"val-{place - version.train_rows + 1}"


def shown_row(version: VersionView, row: RowView, *, linked: bool = True) -> ShownRow:
    """Return a row with its number, its sizes, and the address that leads to it."""
    texts = [turn for turns in (row.layout.turns, *(side for _, side in row.layout.sides)) for turn in turns]
    facts = [plural(sum(len(turn.text) for turn in texts), "character")]
    if row.tokens is not None:
        facts.insert(0, plural(row.tokens, "token"))
    if has_turns(version):
        facts.append(
            plural(len(row.layout.turns) + max((len(side) for _, side in row.layout.sides), default=0), "turn")
        )
    if version.val_rows:
        facts.append(TRAIN if row.split == "train" else VALIDATION)
    query = {"dataset": version.dataset_id, "version": str(version.number), "row": row.name}
    return ShownRow(row.name, f"Row {row.number:,}", row.layout, " · ".join(facts), query if linked else None)
