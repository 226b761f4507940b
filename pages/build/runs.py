"""Runs: list and compare experiments. Filters and ticked runs are kept in the address."""

from __future__ import annotations

import streamlit as st

from backend.domain.jobs.states import Status
from backend.services.context import Context, Person
from backend.services.training.views import RunFilter, RunView, count_runs, get_runs, list_runs, list_tags
from pages.components import routes
from pages.components.browser.run_list.component import live_runs
from pages.components.frame import empty_state, page_frame, warn_unknown
from pages.components.labels import IMPORTED, OBJECTIVES, STATUS
from pages.components.training.comparison import draw_log_import, draw_run_comparison

PAGE_SIZE = 30
MAX_COMPARED = 12
GROUPS: dict[str, tuple[Status, ...]] = {
    "Active": (Status.QUEUED, Status.RUNNING, Status.CANCELLING, Status.PAUSED),
    STATUS[Status.FINISHED]: (Status.FINISHED,),
    STATUS[Status.FAILED]: (Status.FAILED,),
    STATUS[Status.CANCELLED]: (Status.CANCELLED,),
    IMPORTED: (),
}


def draw_run_filters(ctx: Context) -> tuple[list[RunView], int, bool]:
    """Draw the filters; return one page of the runs that pass, their number, and whether any filter is set."""
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
        all_tags = list_tags(ctx)
        tags = (
            st.multiselect("Tags", all_tags, key="tags", bind="query-params", placeholder="Any", width=170)
            if all_tags
            else []
        )
        archived = st.toggle("Archived", key="archived", bind="query-params")
        st.space("stretch")
        if st.button("Launch a run", key="runs_launch", type="primary", icon=":material/rocket_launch:"):
            st.switch_page(routes.LAUNCH, query_params={})  # parameters bound to widgets are an error without it
        chosen: RunFilter = {
            "text": text,
            "statuses": GROUPS[group] if group else (),
            "objectives": (objective,) if objective else (),
            "tags": tags,
            "archived": archived,
            "imported": True if group == IMPORTED else None,
        }
        number = count_runs(ctx, **chosen)
        page = min(int(st.session_state.get("runs_page", 1)), max(1, -(-number // PAGE_SIZE)))
        if "runs_page" in st.session_state:
            st.session_state["runs_page"] = page  # a filter may leave fewer pages than there were
        runs = list_runs(ctx, **chosen, limit=PAGE_SIZE, offset=(page - 1) * PAGE_SIZE)
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


def draw_run_list(ctx: Context, person: Person, runs: list[RunView], picked: list[str], *, compact: bool) -> None:
    """Draw the list; opening a run leaves the page, ticking one changes `?compare=`."""
    action = live_runs(
        ctx, runs, person=person, key="runs_list", selectable=True, picked=picked, follow_active=True, compact=compact
    )
    if action.opened:
        st.switch_page(routes.RUN, query_params={"run": action.opened})
    if action.picked is None:
        return
    shown = {run.id for run in runs}
    ticked = [run for run in picked if run not in shown or run in action.picked]
    ticked += [run for run in action.picked if run not in ticked]
    if len(ticked) > MAX_COMPARED:
        st.toast(f"At most {MAX_COMPARED} runs are compared at once.", icon=":material/info:")
    if ticked:
        st.query_params["compare"] = ",".join(ticked[:MAX_COMPARED])
    else:
        st.query_params.pop("compare", None)
    st.rerun()


def main() -> None:
    """Draw the list, and next to it the comparison of the ticked runs."""
    with page_frame("Runs", "Every experiment, newest first. Tick several to overlay their curves.") as (ctx, person):
        picked = [part for part in st.query_params.get("compare", "").split(",") if part][:MAX_COMPARED]
        runs, number, filtered = draw_run_filters(ctx)
        compared = get_runs(ctx, picked)
        for gone in set(picked) - {run.id for run in compared}:
            warn_unknown("run", gone, instead="it may have been deleted")
        if not runs and not compared:
            if filtered:
                st.caption("No run passes these filters.")
            else:
                empty_state("No runs yet.", page=routes.LAUNCH, label="Launch a run", icon=":material/rocket_launch:")
            draw_foot(ctx, person, 0)
            return
        beside, chart = st.columns([3, 8], gap="medium") if compared else (st.container(), None)
        if chart is not None:
            with chart:
                draw_run_comparison(ctx, person, compared)
        with beside:
            here = {run.id for run in runs}
            elsewhere = [
                run for run in compared if run.id not in here
            ]  # on another page of the list: there to be unticked
            draw_run_list(ctx, person, elsewhere + runs, picked, compact=bool(compared))
            if not runs:
                st.caption("No run passes these filters.")
            draw_foot(ctx, person, number)


main()
