"""Runs: every experiment, newest first; several at once to compare. Filters and choice live in the address."""

from __future__ import annotations

import streamlit as st

from backend.domain.jobs.states import Status
from backend.services.context import Context, Person
from backend.services.training.views import RunFilter, RunView, count_runs, get_runs, list_runs, list_tags
from pages.components import routes
from pages.components.browser.run_list.component import live_runs
from pages.components.frame import empty_state, page_frame
from pages.components.labels import OBJECTIVES
from pages.components.training.comparison import draw_comparison, draw_log_import

PAGE_SIZE = 30
MAX_COMPARED = 12
IMPORTED = "Imported"
GROUPS: dict[str, tuple[Status, ...]] = {
    "Active": (Status.QUEUED, Status.RUNNING, Status.CANCELLING, Status.PAUSED),
    "Finished": (Status.FINISHED,),
    "Failed": (Status.FAILED,),
    "Stopped": (Status.CANCELLED,),
    IMPORTED: (),
}


def draw_filters(ctx: Context) -> tuple[list[RunView], int, bool]:
    """Draw the filters; return a page of the runs that pass them, how many pass, and whether any filter is set."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        text = st.text_input("Search", key="find", bind="query-params", placeholder="Name or notes", width=190) or ""
        group = st.segmented_control("Status", list(GROUPS), key="status", bind="query-params")
        objective = st.selectbox(
            "Objective",
            list(OBJECTIVES),
            index=None,
            key="objective",
            bind="query-params",
            format_func=OBJECTIVES.__getitem__,
            placeholder="Any",
            width=170,
        )
        known = list_tags(ctx)
        tags = st.multiselect("Tags", known, key="tags", bind="query-params", placeholder="Any", width=170) if known else []
        archived = st.toggle("Archived", key="archived", bind="query-params")
        st.space("stretch")
        if st.button("Launch a run", key="runs_launch", type="primary", icon=":material/rocket_launch:"):
            st.switch_page(routes.LAUNCH, query_params={})  # without the argument, parameters that widgets are bound to are an error
        wanted: RunFilter = {
            "text": text,
            "statuses": GROUPS[group] if group else (),
            "objectives": (objective,) if objective else (),
            "tags": tags,
            "archived": archived,
            "imported": True if group == IMPORTED else None,
        }
        number = count_runs(ctx, **wanted)
        page = min(int(st.session_state.get("runs_page", 1)), max(1, -(-number // PAGE_SIZE)))
        if "runs_page" in st.session_state:
            st.session_state["runs_page"] = page  # a filter may leave fewer pages than there were
        runs = list_runs(ctx, **wanted, limit=PAGE_SIZE, offset=(page - 1) * PAGE_SIZE)
    return runs, number, bool(text or group or objective or tags or archived)


def draw_foot(ctx: Context, person: Person, number: int) -> None:
    """Draw, below the list, the page number where one page is not enough, and the import of logs."""
    with st.container(horizontal=True, vertical_alignment="center"):
        if number > PAGE_SIZE:
            st.pagination(-(-number // PAGE_SIZE), key="runs_page")
            st.caption(f"{number:,} runs", width="content")
        st.space("stretch")
        made = draw_log_import(ctx, person)
    if made:
        st.query_params["compare"] = ",".join(made[:MAX_COMPARED])
        st.rerun()


def main() -> None:
    """Draw the list, and the comparison of what is ticked in it."""
    with page_frame("Runs", "Every experiment, newest first. Tick several to lay their curves over each other.") as (ctx, person):
        picked = [part for part in st.query_params.get("compare", "").split(",") if part]
        runs, number, filtered = draw_filters(ctx)
        if not runs:
            if filtered:
                st.caption("No run passes these filters.")
            else:
                empty_state("No run was launched yet.", page=routes.LAUNCH, label="Launch the first", icon=":material/rocket_launch:")
            draw_foot(ctx, person, 0)
            return
        above = st.container()
        action = live_runs(ctx, runs, person=person, key="runs_list", selectable=True, picked=picked, follow_active=True)
        draw_foot(ctx, person, number)
        if action.opened:
            st.switch_page(routes.RUN, query_params={"run": action.opened})
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
        compared = get_runs(ctx, picked[:MAX_COMPARED])
        if compared:
            with above:
                draw_comparison(ctx, person, compared)


main()
