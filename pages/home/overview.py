"""Overview: work in progress and load, next steps, runs, results by benchmark, open campaigns. Never empty."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal
from uuid import uuid4

import streamlit as st

from backend.domain.evaluation.score_text import interval_text, score_label, score_text
from backend.domain.jobs.progress import format_progress
from backend.domain.jobs.states import Status
from backend.domain.training.metric_labels import curve_label, validation_result
from backend.domain.training.objectives import label_of
from backend.domain.wording import percent, plural
from backend.recipes import RECIPES, STARTER
from backend.services.activity import Activity, ActivityKind, list_activities
from backend.services.context import Context, Person
from backend.services.health import GATEWAY, HEALTH
from backend.services.next_steps import NextStep, StepKind
from backend.services.overview import (
    BenchmarkResults,
    BestCheckpoint,
    Gauges,
    Overview,
    OverviewStrip,
    get_overview,
    get_strip,
)
from backend.services.people.dismissals import dismiss_step, restore_steps
from backend.services.training.runs import launch_run
from pages.components import routes
from pages.components.browser.link_table.component import LinkRow, Tone, link_table
from pages.components.browser.run_list.component import live_runs
from pages.components.frame import errors_shown, handled, live_part, page_frame, plain
from pages.components.links import page_link
from pages.components.words import ago, size

REFRESH_S = 2.0
MAX_WORKING = 3
SEEN = "overview_seen"
"""Session-state key of the minute of the last rerun, and of the jobs and endpoints active then."""

STEPS: dict[StepKind, tuple[str, str | None, str]] = {  # icon, page, parameter of its address
    StepKind.ALERT: ("notifications", routes.MONITOR, ""),
    StepKind.ENDPOINT: ("error", routes.ENDPOINTS, ""),
    StepKind.RUN: ("error", routes.RUN, "run"),
    StepKind.WORKERS: ("warning", routes.WORKERS, ""),
    StepKind.VOTE: ("how_to_vote", routes.BALLOT, "campaign"),
    StepKind.EVALUATE: ("grading", routes.EVALUATIONS, "checkpoint"),
    StepKind.IMPORT: ("database", routes.DATASETS, "import"),
    StepKind.STARTER: ("rocket_launch", None, ""),
    StepKind.CAMPAIGN: ("swords", routes.BATTLES, ""),
    StepKind.DEPLOY: ("dns", routes.ENDPOINTS, "checkpoint"),
    StepKind.CHAT: ("chat", routes.PLAYGROUND, "endpoint"),
}

FIRST_WORDS = (
    "Roundhouse trains language models, evaluates them, compares them by blind votes, deploys them and lets you chat"
    " with them, on your own machines."
)
"""Shown to a visitor without runs."""
FIRST_STEP = " Begin with the first step below."
"""Follows it if nothing was done yet."""
DAY, WEEK = timedelta(days=1), timedelta(days=7)
LOGGED = 8
"""Lines of the log that are shown at once."""

LOG = {"What": 3.2, "Event": 3.2, "When": 1.5}
LOG_ICONS = {
    ActivityKind.FINISHED: "check_circle",
    ActivityKind.FAILED: "error",
    ActivityKind.STOPPED: "stop_circle",
    ActivityKind.VOTED: "how_to_vote",
    ActivityKind.DEPLOYED: "dns",
    ActivityKind.DECIDED: "verified",
    ActivityKind.CAMPAIGN: "swords",
    ActivityKind.ALERT: "notifications",
    ActivityKind.ACCOUNT: "person",
    ActivityKind.KEY: "key",
}

BEST = {"Checkpoint": 3.0, "Objective": 1.6, "Metric": 1.8, "Among": 3.2}
CAMPAIGNS = {"Campaign": 2.0, "Contestants": 4.0, "Votes": 1.0}
RESULTS = {"Checkpoint": 3.0, "Score": 1.2, "95 % interval": 2.0, "Against the first": 1.5, "When": 1.2}


def draw_overview_strip(strip: OverviewStrip, *, now: datetime) -> None:
    """Draw work in progress, load of the machines, free disk, and health of endpoints, live. The page reruns when a job
    or an endpoint starts or ends, because the next steps change, and once a minute, because "just now" does.
    """
    active = (
        f"{now:%H:%M}",
        *(run.id for run in strip.runs),
        *(job.id for job in strip.jobs),
        *(f"{one.name} {one.is_ready}" for one in strip.endpoints),
    )
    previous = st.session_state.get(SEEN)
    st.session_state[SEEN] = active
    if previous is not None and set(previous) != set(active):
        st.rerun()
    with st.container(border=True, key="overview_strip"):
        draw_work(strip)
        with st.grid("auto", min_column_width=160):
            for label, share, text in gauges(strip.gauges):
                draw_gauge(label, share, text)
            with st.container(horizontal=True, gap="xsmall"):
                draw_health(strip)


def draw_work(strip: OverviewStrip) -> None:
    """Draw a bar for each of the first running jobs, and how many others run or wait."""
    running = [run for run in strip.runs if run.status is not Status.QUEUED]
    working = [job for job in strip.jobs if job.status is not Status.QUEUED]
    bars = [(run.share, run.name, run.line) for run in running]
    bars += [
        (job.progress.share if job.progress else 0.0, job.title, format_progress(job.progress) or "starting")
        for job in working
    ]
    for share, name, state in bars[:MAX_WORKING]:
        st.progress(min(1.0, share), text=f"**{plain(name)}** · {plain(state)}")
    queued = len(strip.runs) + len(strip.jobs) - len(running) - len(working)
    rest = [f"{plural(len(bars) - MAX_WORKING, 'other job')} running"] if len(bars) > MAX_WORKING else []
    rest += [f"{plural(queued, 'job')} queued"] if queued else []
    if rest or not bars:
        st.caption(", ".join(rest) if rest else "Nothing is running.")


def gauges(values: Gauges) -> list[tuple[str, float | None, str]]:
    """Return label, share and text of each known gauge."""
    lines: list[tuple[str, float | None, str]] = []
    if (cpu := values.cpu_share) is not None:
        lines.append(("CPU", cpu, percent(cpu)))
    if values.num_gpus:
        share = values.gpu_share
        label = "GPU" if values.num_gpus == 1 else f"{values.num_gpus} GPUs"
        lines.append((label, share, "–" if share is None else percent(share)))
        used, total = values.gpu_memory_used_bytes, values.gpu_memory_total_bytes
        text = f"{percent(used / max(1, total))} of {size(total)}"
        lines.append(("GPU memory", used / total if total else None, text))
    if values.memory_used_bytes is not None and values.memory_total_bytes:
        share = values.memory_used_bytes / values.memory_total_bytes
        lines.append(("Memory", share, f"{percent(share)} of {size(values.memory_total_bytes)}"))
    disk = f"{percent(values.disk_share)}, {size(values.disk_free_bytes)} free"
    return [*lines, ("Disk", values.disk_share, disk)]


def draw_gauge(label: str, share: float | None, text: str) -> None:
    """Draw a gauge, as a bar where it is a share."""
    if share is None:
        st.markdown(f"{label} **{plain(text)}**")
    else:
        st.progress(min(1.0, max(0.0, share)), text=f"{label} **{plain(text)}**")


def draw_health(strip: OverviewStrip) -> None:
    """Draw the number of ready endpoints and living workers."""
    ready, all_endpoints = sum(line.is_ready for line in strip.endpoints), len(strip.endpoints)
    if all_endpoints and HEALTH.fails(GATEWAY):
        st.badge(f"{plural(all_endpoints, 'endpoint')}, out of reach", icon=":material/dns:", color="red")
    elif all_endpoints:
        short = sum(max(0, line.num_replicas - line.num_ready) for line in strip.endpoints)
        color: Literal["green", "orange"] = "green" if ready == all_endpoints else "orange"
        st.badge(f"{ready} of {plural(all_endpoints, 'endpoint')} ready", icon=":material/dns:", color=color)
        if short:
            st.badge(f"{plural(short, 'replica')} missing", icon=":material/dns:", color="orange")
    else:
        st.badge("no endpoint", icon=":material/dns:", color="gray")
    if strip.gauges.num_workers:
        st.badge(plural(strip.gauges.num_workers, "worker"), icon=":material/memory:", color="green")
    else:
        st.badge("no worker", icon=":material/memory:", color="orange")


def draw_steps(ctx: Context, person: Person, overview: Overview) -> None:
    """Draw what fails, then the next steps, each with a button, the first a primary one. Each can be dismissed."""
    for title, steps, empty in (("Alerts", overview.alerts, ""), ("Next", overview.steps, "Nothing to do.")):
        if steps or empty:
            st.subheader(title, anchor=False)
        if not steps and empty:
            st.caption(empty)
        if steps:
            with st.container(border=True, gap="xsmall"):
                for number, step in enumerate(steps):
                    draw_step(ctx, person, step, key=f"step_{title}_{number}", is_first=number == 0)
    if overview.num_dismissed:
        st.button(
            f"Show {overview.num_dismissed:,} dismissed",
            type="tertiary",
            icon=":material/undo:",
            key="restore_steps",
            on_click=handled(restore_steps),
            args=(ctx,),
            kwargs={"person": person},
        )


def draw_step(ctx: Context, person: Person, step: NextStep, *, key: str, is_first: bool) -> None:
    """Draw one step: icon, text, button, and the one that dismisses it."""
    icon, page, parameter = STEPS[step.kind]
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="right"):
        st.markdown(f":material/{icon}: {plain(step.text)}", width="stretch")
        with st.container(horizontal=True, vertical_alignment="center", width="content"):
            if st.button(
                step.action, key=f"{key}_{step.kind}_{step.subject}", type="primary" if is_first else "secondary"
            ):
                if page is None:
                    launch_starter(ctx, person)
                else:
                    st.switch_page(page, query_params={parameter: step.subject or "1"} if parameter else {})
            st.button(
                "Dismiss",
                type="tertiary",
                key=f"dismiss_{key}_{step.kind}_{step.subject}",
                help="Until the situation changes",
                on_click=handled(dismiss_step),
                args=(ctx, step.key),
                kwargs={"person": person},
            )


def launch_starter(ctx: Context, person: Person) -> None:
    """Launch the starter recipe and go to its run. A double click is one run."""
    key = st.session_state.setdefault("overview_nonce", uuid4().hex)
    with errors_shown():
        run = launch_run(ctx, RECIPES[STARTER].config, person=person, idempotency_key=f"overview:{key}")
        st.switch_page(routes.RUN, query_params={"run": run.id})


def draw_newest_runs(ctx: Context, person: Person, overview: Overview) -> None:
    """Draw the active runs and the newest others, live."""
    runs = [*overview.active, *overview.recent]
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.subheader("Runs", anchor=False)
        with st.container(horizontal=True, horizontal_alignment="right"):
            page_link(routes.LAUNCH, "Launch")
            page_link(routes.RUNS, "All runs")
    if not runs:
        st.caption("No runs yet.")
    opened = live_runs(ctx, runs, person=person, key="overview_runs", follow_active=True)
    if opened:
        st.switch_page(routes.RUN, query_params={"run": opened})


def draw_newest_scores(ctx: Context, overview: Overview) -> None:
    """Draw the newest scores by benchmark, with interval and difference from the best."""
    st.subheader("Results", anchor=False)
    if not overview.results:
        st.caption("No evaluations yet.")
    for number, group in enumerate(overview.results):
        draw_benchmark(ctx, group, key=f"results{number}")


def draw_benchmark(ctx: Context, group: BenchmarkResults, *, key: str) -> None:
    """Draw the scores on one benchmark, the best first."""
    title = f"{group.title} · {score_label(group.metric)}"
    st.markdown(f"**{plain(group.title)}** · {plain(score_label(group.metric))}")
    rows = [
        LinkRow(
            line.evaluation.checkpoint,
            "deployed_code",
            (
                (score_text(group.metric, line.score.value), "strong"),
                (interval_text(group.metric, line.score.low, line.score.high) or "no interval", ""),
                ("first" if line.delta is None else score_text(group.metric, line.delta, signed=True), ""),
                (ago(line.evaluation.created_at, now=ctx.now()), "faint"),
            ),
            routes.EVALUATIONS,
            {"evaluation": line.evaluation.id},
        )
        for line in group.lines
    ]
    link_table(RESULTS, rows, key=key, label=title)
    if group.num_more:
        st.caption(f"{plural(group.num_more, 'other checkpoint')} on the Evaluations page.")


def draw_best(overview: Overview) -> None:
    """Draw the best checkpoint of each objective, and among what it is the best."""
    st.subheader("Best checkpoints", anchor=False)
    rows = []
    for best in overview.best:
        among = f"{plural(best.num_checkpoints, 'checkpoint')} of {plural(best.num_runs, 'run')}"
        label, value = validation_result({best.metric: best.value}, best.objective) or (
            curve_label(best.metric),
            best.value,
        )
        cells: list[tuple[str, Tone]] = [
            (label_of(best.objective), "faint"),
            (f"{label} {value:.3f}", ""),
            (f"{among} on {best.data}, with the same tokenizer and loss{_left_out(best)}", "faint"),
        ]
        icon = routes.icon_of(routes.CHECKPOINTS)
        rows.append(LinkRow(best.name, icon, cells, routes.CHECKPOINTS, {"checkpoint": best.id}))
    link_table(BEST, rows, key="best", label="Best checkpoints")


def _left_out(best: BestCheckpoint) -> str:
    """Return how many checkpoints are not compared since they were not validated, as after *Stop and save*."""
    return f"; {best.num_unmeasured:,} without validation left out" if best.num_unmeasured else ""


def draw_campaigns(overview: Overview) -> None:
    """Draw the open campaigns."""
    st.subheader("Battles", anchor=False)
    icon = routes.icon_of(routes.BATTLES)
    rows = [
        LinkRow(
            campaign.name,
            icon,
            ((" against ".join(campaign.contestants), "faint"), (f"{campaign.num_votes:,}", "")),
            routes.BATTLES,
            {"campaign": campaign.id},
        )
        for campaign in overview.campaigns
    ]
    link_table(CAMPAIGNS, rows, key="campaigns", label="Open campaigns")


def draw_activity(ctx: Context, person: Person) -> None:
    """Draw what happened in the last day, or in the last week if nothing did."""
    st.subheader("Log", anchor=False)
    activities = list_activities(ctx, since=ctx.now() - DAY, person=person)
    span = "in the last day"
    if not activities:
        activities, span = list_activities(ctx, since=ctx.now() - WEEK, person=person), "in the last week"
    if not activities:
        st.caption("Nothing happened in the last week.")
        return
    also = ", and what changed of accounts and keys" if person.is_admin else ""
    st.caption(f"What ended, was voted, deployed or decided {span}{also}, newest first.")
    rows = [log_row(activity, now=ctx.now()) for activity in activities]
    fold = plural(len(rows) - LOGGED, "earlier event")
    link_table(LOG, rows, key="log", label="Log", num_shown=LOGGED, fold=fold)


def log_row(activity: Activity, *, now: datetime) -> LinkRow:
    """Return a line of the log: the object as a link, its event, and when and by whom."""
    page, query = None, {}
    if activity.subject is not None:
        kind, subject = activity.subject
        _, page, parameter = routes.OBJECTS[kind]
        query = {parameter: subject}
    elif activity.kind in (ActivityKind.ACCOUNT, ActivityKind.KEY):
        page, query = routes.PEOPLE, {"tab": "Accounts" if activity.kind is ActivityKind.ACCOUNT else "Keys"}
    cells: list[tuple[str, Tone]] = [
        (activity.text, "bad" if activity.kind is ActivityKind.FAILED else ""),
        (", ".join(filter(None, (ago(activity.at, now=now), activity.who))), "faint"),
    ]
    return LinkRow(activity.name, LOG_ICONS[activity.kind], cells, page, query)


def main() -> None:
    """Draw the first page."""
    with page_frame("Overview") as (ctx, person):
        st.session_state[SEEN] = None
        live_part(REFRESH_S)(lambda: draw_overview_strip(get_strip(ctx), now=ctx.now()))()
        overview = get_overview(ctx, person=person)
        if not overview.active and not overview.recent:
            st.markdown(
                f"{FIRST_WORDS}{'' if list_activities(ctx, since=ctx.now() - WEEK, person=person) else FIRST_STEP}"
            )
        draw_steps(ctx, person, overview)
        st.space("small")
        draw_newest_runs(ctx, person, overview)
        st.space("small")
        if overview.best:
            draw_best(overview)
            st.space("small")
        draw_newest_scores(ctx, overview)
        st.space("small")
        if overview.campaigns:
            draw_campaigns(overview)
            st.space("small")
        draw_activity(ctx, person)


main()
