"""Overview: what runs now, what waits, what serves, what was found, and what a newcomer does next. Never empty."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import uuid4

import streamlit as st

from backend.domain.jobs.progress import read_progress, say_progress
from backend.domain.jobs.states import Status
from backend.domain.wording import plural
from backend.recipes import RECIPES, STARTER
from backend.services.context import Context, Person
from backend.services.jobs.jobs import JobView
from backend.services.overview import EndpointLine, Overview, Step, get_overview, list_other_jobs
from backend.services.training.runs import launch_run
from pages.components import routes
from pages.components.browser.run_list.component import live_runs
from pages.components.evaluation.scores import interval_text, metric_label, score_text
from pages.components.frame import errors_shown, page_frame, plain
from pages.components.words import ago

STEPS: dict[str, tuple[str, str, str, str]] = {  # title, what happens, page, label of the link
    "data": ("Data", "Text, conversations or preferences to learn from.", routes.DATASETS, "Add a dataset"),
    "train": ("Train", "A network learns; watch its curves.", routes.LAUNCH, "Open the launch form"),
    "evaluate": ("Evaluate", "Measure it on a benchmark.", routes.EVALUATIONS, "Evaluate a checkpoint"),
    "vote": ("Vote", "Compare two networks, blind.", routes.BATTLES, "Start a campaign"),
    "deploy": ("Deploy and chat", "Serve it and talk with it.", routes.ENDPOINTS, "Deploy a checkpoint"),
}


def draw_steps(ctx: Context, person: Person, overview: Overview) -> None:
    """Draw the five steps with the next one marked."""
    st.subheader("From data to chat in five steps", anchor=False)
    with st.grid(len(STEPS), min_column_width=170):
        for number, step in enumerate(overview.steps, start=1):
            with st.container(border=True, height="stretch"):
                draw_step(ctx, person, number, step, busy=bool(overview.active))


def draw_step(ctx: Context, person: Person, number: int, step: Step, *, busy: bool) -> None:
    """Draw one step: a tick, a button if it is next, a link otherwise."""
    title, text, page, label = STEPS[step.name]
    mark = ":green[:material/check_circle:]" if step.is_done else f":material/counter_{number}:"
    st.markdown(f"{mark} **{title}**")
    st.caption(text)
    st.space("stretch")
    if step.is_next and step.name == "train":
        if st.button("Train the starter network", key="overview_starter", type="primary", icon=":material/play_arrow:", disabled=busy):
            launch_starter(ctx, person)
    elif step.is_next:
        if st.button(label, key=f"overview_{step.name}", type="primary"):
            st.switch_page(page)
    else:
        st.page_link(page, label="Look" if step.is_done else label, icon=":material/arrow_forward:")


def launch_starter(ctx: Context, person: Person) -> None:
    """Launch the starter recipe and go to its run. A double click is one run."""
    key = st.session_state.setdefault("overview_nonce", uuid4().hex)
    with errors_shown():
        run = launch_run(ctx, RECIPES[STARTER].config, person=person, idempotency_key=f"overview:{key}")
        st.switch_page(routes.RUN, query_params={"run": run.id})


def draw_runs(ctx: Context, person: Person, overview: Overview) -> None:
    """Draw the active runs and the newest others, live."""
    runs = [*overview.active, *overview.recent]
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.subheader("Runs now" if overview.active else "Latest runs", anchor=False)
        with st.container(horizontal=True, horizontal_alignment="right"):
            st.page_link(routes.LAUNCH, label="Launch", icon=":material/rocket_launch:")
            st.page_link(routes.RUNS, label="All runs", icon=":material/show_chart:")
    if not runs:
        st.caption("No run yet. The starter network takes about two minutes on two CPU cores.")
    action = live_runs(ctx, runs, person=person, key="overview_runs", follow_active=True)
    if action.opened:
        st.switch_page(routes.RUN, query_params={"run": action.opened})


def draw_jobs(jobs: Sequence[JobView]) -> None:
    """Draw imports, evaluations and other jobs that wait or run."""
    st.subheader("Other work in the queues", anchor=False)
    with st.container(border=True, gap="xsmall"):
        for job in jobs:
            waiting = job.status is Status.QUEUED
            icon = ":material/schedule:" if waiting else ":material/progress_activity:"
            state = "waits" if waiting else say_progress(read_progress(job.progress)) or "starting"
            st.markdown(f"{icon} {plain(job.title)} · :gray[{plain(state)}]")


def draw_endpoints(endpoints: tuple[EndpointLine, ...]) -> None:
    """Draw what is deployed."""
    st.subheader("Endpoints", anchor=False)
    if not endpoints:
        st.caption("Nothing is deployed. A checkpoint becomes an endpoint on the Endpoints page.")
    for line in endpoints:
        with st.container(border=True, horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            with st.container(gap="xxsmall"):
                st.markdown(f"**{plain(line.name)}**")
                st.caption(plain(line.checkpoint))
            healthy = line.num_ready >= line.num_replicas
            st.badge(f"{line.num_ready} of {plural(line.num_replicas, 'replica')}", color="green" if healthy else "orange")
            st.page_link(routes.PLAYGROUND, label="Chat", icon=":material/chat:", query_params={"endpoint": line.name})


def draw_results(ctx: Context, overview: Overview) -> None:
    """Draw the latest scores and the open campaigns."""
    st.subheader("Latest results", anchor=False)
    if not overview.results and not overview.campaigns:
        st.caption("Scores and votes appear here.")
    for line in overview.results:
        with st.container(border=True, horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            with st.container(gap="xxsmall"):
                st.markdown(f"**{plain(line.checkpoint)}**")
                st.caption(f"{plain(line.benchmark)}, {ago(line.created_at, now=ctx.now())}")
            interval = plain(interval_text(line.metric, line.low, line.high))
            score = f"{plain(metric_label(line.metric))} **{plain(score_text(line.metric, line.value))}**"
            st.markdown(f"{score} :gray[{interval}]" if interval else score, width="content")
    for campaign in overview.campaigns:
        with st.container(border=True, horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            with st.container(gap="xxsmall"):
                st.markdown(f"**{plain(campaign.name)}**")
                st.caption(" against ".join(plain(name) for name in campaign.contestants))
            st.markdown(plural(campaign.num_votes, "vote"), width="content")
            st.page_link(routes.BATTLES, label="Open", icon=":material/swords:", query_params={"campaign": campaign.id})


def main() -> None:
    """Draw the first page."""
    with page_frame("Overview", "What runs now, what was found, and what comes next.") as (ctx, person):
        overview = get_overview(ctx)
        if overview.is_newcomer:
            draw_steps(ctx, person, overview)
            st.space("small")
        draw_runs(ctx, person, overview)
        if overview.other_jobs:
            st.space("small")
            st.fragment(lambda: draw_jobs(list_other_jobs(ctx)), run_every=2.0)()
        st.space("small")
        left, right = st.columns(2, gap="large")
        with left:
            draw_endpoints(overview.endpoints)
        with right:
            draw_results(ctx, overview)


main()
