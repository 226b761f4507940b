"""Run: one experiment, live (`?run=`)."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from backend.domain.jobs.states import Status
from backend.domain.training.diagnosis import Finding, breaking_finding, idle_finding
from backend.domain.training.objectives import writes_text
from backend.services.context import Context, Person
from backend.services.training.diagnosis import diagnose_run
from backend.services.training.views import (
    RunDetail,
    RunView,
    expected_start,
    get_run,
    how_to_repeat,
    read_run_log,
    run_detail,
)
from pages.components import routes
from pages.components.browser.live_chart.component import live_chart
from pages.components.evaluation.run_scores import draw_run_scores
from pages.components.frame import empty_state, live_part, object_heading, page_frame, show_problem
from pages.components.links import back_link, chat_endpoints
from pages.components.training.placement import draw_placement_wait
from pages.components.training.run import (
    draw_checkpoints,
    draw_editor,
    draw_expected_start,
    draw_facts,
    draw_findings,
    draw_held_out,
    draw_imported_facts,
    draw_next_steps,
    draw_run_actions,
    draw_run_report,
    draw_strip,
    say_barely_trained,
)

REFRESH_S = 2.0
DIAGNOSE_S = 15.0
CURVES, NOTES = "Curves", "Notes and tags"
TABS = (CURVES, "Predictions", "Checkpoints", "Log", "Config", "Report", NOTES)


def draw_run(ctx: Context, person: Person, detail: RunDetail) -> None:
    """Draw a run: facts, figures, actions, findings, and tabs; the curves are drawn behind every tab, since they notice
    a change of status.
    """
    run = detail.run
    findings = diagnose_run(ctx, run.id)
    breaking = breaking_finding(findings)
    draw_facts(ctx, detail)
    live_part(DIAGNOSE_S if run.is_active else None)(lambda: draw_strip(ctx, get_run(ctx, run.id), detail))()
    draw_run_actions(ctx, person, detail, breaking=breaking)
    if run.status is Status.FAILED and breaking is None:
        show_problem(run.error.cause or "The run failed.", run.error.remedy)
    elif run.status is Status.QUEUED:
        if detail.config.devices.nodes > 1 or (detail.job is not None and detail.job.placement):
            live_part(REFRESH_S)(lambda: draw_placement_wait(ctx, run))()
        else:
            live_part(REFRESH_S)(lambda: draw_expected_start(expected_start(ctx, run.job_id or "")))()
    if not run.is_active and detail.checkpoints and breaking is None and idle_finding(findings) is None:
        newest = max(detail.checkpoints, key=lambda line: line.step or 0)
        with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
            st.markdown("**Next:**", width="content")
            draw_next_steps(newest.id, chat_endpoints(ctx), writes=writes_text(run.objective))
            if barely := say_barely_trained(run, newest.step):
                st.caption(f":material/info: {barely}", width="content")
    draw_live_findings(ctx, person, run, findings)
    for name, tab in zip(TABS, st.tabs(TABS, key="tab", bind="query-params"), strict=True):
        if tab.open or name in (CURVES, NOTES):  # unsaved notes survive a switch of tabs
            with tab:
                draw_tab(ctx, person, detail, findings, name=name)


def draw_tab(ctx: Context, person: Person, detail: RunDetail, findings: Sequence[Finding], *, name: str) -> None:
    """Draw what a tab holds."""
    run = detail.run
    every = REFRESH_S if run.is_active else None
    if name == CURVES:
        draw_curves(ctx, person, run, findings)
        live_part(DIAGNOSE_S if run.is_active else None)(lambda: draw_run_scores(ctx, run.id))()
    elif name == "Predictions":
        live_part(DIAGNOSE_S if run.is_active else None)(lambda: draw_held_out(ctx, get_run(ctx, run.id), detail))()
    elif name == "Checkpoints":
        breaking = breaking_finding(findings)
        live_part(every)(lambda: draw_checkpoints(ctx, run_detail(ctx, run.id), breaking=breaking))()
    elif name == "Log":
        live_part(every)(lambda: draw_log(ctx, get_run(ctx, run.id)))()
    elif name == "Config":
        repetition = how_to_repeat(ctx, detail)
        st.caption(repetition.sentence)
        st.code("\n".join(repetition.commands), language="sh")
        st.code(repetition.yaml, language="yaml")
    elif name == "Report":
        draw_run_report(ctx, run)
    elif name == NOTES:
        draw_editor(ctx, person, run)


def draw_live_findings(ctx: Context, person: Person, run: RunView, findings: Sequence[Finding]) -> None:
    """Draw the findings of a run, again every few seconds while it is active."""
    known = [findings]
    every = DIAGNOSE_S if run.is_active else None
    live_part(every)(lambda: draw_findings(ctx, person, run, known.pop() if known else diagnose_run(ctx, run.id)))()


def draw_curves(ctx: Context, person: Person, run: RunView, findings: Sequence[Finding]) -> None:
    """Draw the curves of a run with a line at each finding."""
    marks = [finding.step for finding in findings if finding.step is not None]
    live_chart(ctx, [run], person=person, key=f"run_chart_{run.id}", marks=marks)


def draw_imported(ctx: Context, person: Person, run: RunView) -> None:
    """Draw an imported run: curves without actions."""
    findings = diagnose_run(ctx, run.id)
    draw_imported_facts(ctx, run)
    draw_live_findings(ctx, person, run, findings)
    draw_curves(ctx, person, run, findings)
    with st.expander("Notes and tags", icon=":material/edit_note:"):
        draw_editor(ctx, person, run)


def draw_log(ctx: Context, run: RunView) -> None:
    """Draw the end of the run's log."""
    lines = read_run_log(ctx, run, last=300)
    if lines:
        st.code("\n".join(lines), language=None, height=360)
    else:
        st.caption("No log lines yet.")


def main() -> None:
    """Draw the run of `?run=`."""
    run_id = st.query_params.get("run", "")
    with page_frame("Run", objects=["run"]) as (ctx, person):
        if not run_id:
            empty_state("No run selected.", page=routes.RUNS, label="See all runs")
            return
        back_link("All runs", page=routes.RUNS, key="run_back")
        run = get_run(ctx, run_id)
        object_heading(run.name)
        if run.is_imported:
            draw_imported(ctx, person, run)
        else:
            draw_run(ctx, person, run_detail(ctx, run.id))


main()
