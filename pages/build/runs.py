"""Runs: a table of every experiment, and comparisons of those ticked. What is shown is in the address."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from backend.domain.filters import FilterError
from backend.domain.training.run_table import RunFold, RunRow, RunTable
from backend.domain.wording import plural
from backend.errors import InvalidInput
from backend.services.context import Context, Person
from backend.services.training.run_table import (
    NEWEST_FIRST,
    RunQuery,
    find_runs,
    fold_runs,
    read_run_table,
    suggest_filter_values,
)
from backend.services.training.views import get_runs
from pages.components import routes
from pages.components.frame import (
    draw_filter_error,
    empty_state,
    errors_shown,
    page_frame,
    plain,
    show_error,
    warn_unknown,
)
from pages.components.tables import draw_pager
from pages.components.training.comparison import draw_log_import, draw_run_comparison
from pages.components.training.run_charts import draw_parallel, draw_scatter
from pages.components.training.run_table import (
    PAGE_SIZE,
    chosen_columns,
    draw_bar,
    draw_picked,
    draw_run_filters,
    draw_run_table,
    read_address,
)
from pages.components.training.sweep import draw_sweeps
from pages.components.words import time_zone

MAX_COMPARED = 12


def with_known_order(table: RunTable, query: RunQuery) -> RunQuery:
    """Return the query, newest first in place of an order by a field that no run has, with a note."""
    try:
        table.field(query.order.removeprefix("-"))
    except InvalidInput as error:
        show_error(error)
        st.query_params["sort"] = NEWEST_FIRST
        return replace(query, order=NEWEST_FIRST)
    return query


def find(table: RunTable, ctx: Context, query: RunQuery) -> list[RunRow] | None:
    """Return the runs that pass, or say what is wrong with the query and return None."""
    try:
        return find_runs(ctx, query, table=table, zone=time_zone())
    except FilterError as error:
        draw_filter_error(error, query.filter)
        return None


def draw_foot(ctx: Context, person: Person, number: int, query: object) -> int:
    """Draw what is below the table, the pager and the import of logs; return the page."""
    with st.container(horizontal=True, vertical_alignment="center"):
        page = draw_pager(-(-number // PAGE_SIZE), query=query)
        st.space("stretch")
        made = draw_log_import(ctx, person)
    if made:
        st.query_params["compare"] = ",".join(made[:MAX_COMPARED])
        st.rerun()
    return page


def draw_runs(
    ctx: Context, person: Person, table: RunTable, passing: list[RunRow], query: RunQuery, picked: Sequence[str]
) -> None:
    """Draw the runs that were found, as the address says."""
    columns = chosen_columns(table, passing, query)
    shown, group = draw_bar(ctx, person, table, passing, columns)
    draw_picked(ctx, person, table, picked, passing)
    ticked = [row for row in table.rows if row.id in set(picked)]
    if not passing:
        st.caption(" ".join(["No run passes these filters.", *map(plain, suggest_filter_values(table, query))]))
        if not ticked:
            draw_foot(ctx, person, 0, query)
            return
    if shown == "Parallel coordinates":
        draw_parallel(table, ticked if len(ticked) > 1 else passing)
        return
    if shown == "Scatter":
        draw_scatter(table, ticked if len(ticked) > 1 else passing)
        return
    entries = fold_runs(table, passing, group, order=query.order)
    head = st.container()
    parts = st.columns([3, 8], gap="medium") if shown == "Curves" else [st.container()]
    with parts[0]:
        place = st.container()
        page = draw_foot(ctx, person, len(entries), (query, group))
    here = entries[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]
    if shown == "Curves":
        with parts[1], errors_shown():  # a run that can't be read leaves the others to be ticked
            draw_compared_curves(ctx, person, picked, head=head)
        with place:
            there = {row.id for entry in here for row in (entry.rows if isinstance(entry, RunFold) else [entry])}
            elsewhere = [row for row in ticked if row.id not in there][:MAX_COMPARED]  # there to be unticked
            narrow, rows = [table.fields["status"]], [*elsewhere, *here]
            draw_run_table(ctx, person, table, rows, narrow, order=query.order, picked=picked, key="runs_narrow")
    elif passing:
        with place:
            draw_run_table(ctx, person, table, here, columns, order=query.order, picked=picked, key="runs_table")


def draw_compared_curves(ctx: Context, person: Person, picked: Sequence[str], *, head: DeltaGenerator) -> None:
    """Draw the curves of the ticked runs over each other, and at the head in which settings they differ."""
    compared = get_runs(ctx, picked[:MAX_COMPARED])
    if not compared:
        st.caption("Tick runs to overlay their curves.")
        return
    if len(picked) > MAX_COMPARED:
        st.caption(f"Curves of the first {MAX_COMPARED} of {plural(len(picked), 'ticked run')}.")
    draw_run_comparison(ctx, person, compared, head=head)


def main() -> None:
    """Draw filters, table or charts, and what can be done with the ticked runs."""
    with page_frame("Runs") as (ctx, person):
        picked = read_address()
        table = read_run_table(ctx)
        query = with_known_order(table, draw_run_filters(table))
        known = {row.id for row in table.rows}
        for gone in [run_id for run_id in picked if run_id not in known][:3]:
            warn_unknown("run", gone, instead="it may have been deleted")
        passing = find(table, ctx, query)
        if passing is None:
            return
        picked = [run_id for run_id in picked if run_id in known]
        if not table.rows or not (passing or picked or query != RunQuery(order=query.order)):
            empty_state("No runs yet.", page=routes.LAUNCH, label="Launch a run", icon=":material/rocket_launch:")
            draw_foot(ctx, person, 0, query)
            return
        draw_runs(ctx, person, table, passing, query, picked)
        if table.names.sweeps:
            draw_sweeps(ctx)


main()
