"""Runs: every experiment, newest first; several at once to compare. Filters and choice live in the address."""

from __future__ import annotations

import streamlit as st

from backend.domain.job_states import Status
from backend.services.context import Context, Person
from backend.services.run_views import RunView, get_runs, list_runs, list_tags
from backend.services.runs import archive_run
from pages.components.config_table import draw_differences
from pages.components.frame import empty_state, errors_shown, page_frame
from pages.components.live_chart import live_chart
from pages.components.live_runs import live_runs
from pages.components.run_widgets import OBJECTIVES

PAGE_SIZE = 30
MAX_COMPARED = 8
GROUPS: dict[str, tuple[Status, ...]] = {
    "Active": (Status.QUEUED, Status.RUNNING, Status.CANCELLING, Status.PAUSED),
    "Finished": (Status.FINISHED,),
    "Failed": (Status.FAILED,),
    "Stopped": (Status.CANCELLED,),
}


def draw_filters(ctx: Context) -> tuple[list[RunView], bool]:
    """Draw the filters; return the runs that pass them, and whether any filter is set."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        text = st.text_input("Search", key="find", bind="query-params", placeholder="Name or notes", width=190) or ""
        group = st.segmented_control("Status", list(GROUPS), key="status", bind="query-params")
        objective = st.selectbox(
            "Objective", list(OBJECTIVES), index=None, key="objective", bind="query-params", format_func=OBJECTIVES.__getitem__,
            placeholder="Any", width=170,
        )  # fmt: skip
        known = list_tags(ctx)
        tags = st.multiselect("Tags", known, key="tags", bind="query-params", placeholder="Any", width=170) if known else []
        archived = st.toggle("Archived", key="archived", bind="query-params")
        st.space("stretch")
        if st.button("Launch a run", key="runs_launch", type="primary", icon=":material/rocket_launch:"):
            st.switch_page("build/launch.py", query_params={})  # without the argument, parameters that widgets are bound to are an error
        page = int(st.session_state.get("runs_page", 1))
        runs = list_runs(
            ctx, text=text, statuses=GROUPS[group] if group else (), objectives=(objective,) if objective else (), tags=tags,
            archived=archived, limit=PAGE_SIZE + 1, offset=(page - 1) * PAGE_SIZE,
        )  # fmt: skip
    return runs, bool(text or group or objective or tags or archived)


def draw_pages(num_shown: int) -> None:
    """Draw the page number where one page is not enough."""
    page = int(st.session_state.get("runs_page", 1))
    if num_shown > PAGE_SIZE or page > 1:
        st.pagination(page + (1 if num_shown > PAGE_SIZE else 0), key="runs_page")


def draw_comparison(ctx: Context, person: Person, picked: list[str]) -> None:
    """Draw the curves of the picked runs over each other, and where their configs differ."""
    runs = get_runs(ctx, picked[:MAX_COMPARED])
    if not runs:
        return
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.subheader("Compared" if len(runs) > 1 else "Tick more runs below to compare", anchor=False)
            with st.container(horizontal=True, horizontal_alignment="right"):
                ended = all(not run.is_active and run.archived_at is None for run in runs)
                if ended and st.button("Archive", key="runs_archive", icon=":material/archive:"):
                    with errors_shown():
                        for run in runs:
                            archive_run(ctx, run.id, person=person)
                        del st.query_params["compare"]
                        st.rerun()
                if st.button("Clear", key="runs_clear", icon=":material/close:"):
                    del st.query_params["compare"]
                    st.rerun()
        live_chart(ctx, runs, person=person, key="runs_chart")
        if len(runs) > 1:
            draw_differences(ctx, [run.id for run in runs])


def main() -> None:
    """Draw the list, and the comparison of what is ticked in it."""
    with page_frame("Runs", "Every experiment, newest first. Tick several to lay their curves over each other.") as (ctx, person):
        picked = [part for part in st.query_params.get("compare", "").split(",") if part]
        runs, filtered = draw_filters(ctx)
        if not runs:
            if filtered:
                st.caption("No run passes these filters.")
            else:
                empty_state("No run was launched yet.", page="build/launch.py", label="Launch the first", icon=":material/rocket_launch:")
            return
        above = st.container()
        action = live_runs(ctx, runs[:PAGE_SIZE], person=person, key="runs_list", selectable=True, picked=picked, follow_active=True)
        draw_pages(len(runs))
        if action.opened:
            st.switch_page("build/run.py", query_params={"run": action.opened})
        if action.picked is not None:
            shown = {run.id for run in runs}
            picked = [run for run in picked if run not in shown or run in action.picked] + [
                run for run in action.picked if run not in picked
            ]
            if picked:
                st.query_params["compare"] = ",".join(picked[:MAX_COMPARED])
            else:
                st.query_params.pop("compare", None)
            st.rerun()
        if picked:
            with above:
                draw_comparison(ctx, person, picked)


main()
