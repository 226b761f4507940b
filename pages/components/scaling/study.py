"""One scaling study: progress, profiles, frontier, and the fitted law."""

from __future__ import annotations

import math

import streamlit as st

from backend.domain.jobs.states import Status
from backend.domain.scaling.curves import CurveLine, parabola_line
from backend.domain.scaling.fit import LawFit
from backend.domain.scaling.isoflop import Profile
from backend.domain.scaling.laws import DEFAULT_LAW, PUBLISHED, ScalingPoint
from backend.domain.scaling.study import format_budget
from backend.domain.wording import percent, plural, short
from backend.services.context import Context, Person
from backend.services.scaling.planner import OWN, PoolRun
from backend.services.scaling.studies import (
    FitReport,
    StudyDetail,
    archive_study,
    get_study,
    launch_study,
    retry_study,
    stop_study,
    study_detail,
)
from pages.components import routes
from pages.components.browser.run_list.component import live_runs
from pages.components.charts.html import figure
from pages.components.choices import choose_one
from pages.components.frame import draw_metric, errors_shown, live_part, object_heading, plain, rerun_after
from pages.components.links import back_link, page_link
from pages.components.scaling.charts import Dot, profiles_chart, run_dot
from pages.components.scaling.plan import draw_frontier
from pages.components.scaling.plan_form import law_label

PAGE = routes.PLANNER
VAGUE = 1e4  # an interval that reaches this many times above its value is uninformative
NOTHING = 1e-9
STUDY_ONLY, EVERYTHING = "This study", "All finished runs on this data"


def draw_study(ctx: Context, person: Person, study_id: str) -> None:
    """Draw a study: progress while it runs, then its results."""
    back_link("Planner", page=PAGE, key="study_back", query={"view": "Studies"})
    detail = study_detail(ctx, study_id)
    study = detail.study
    _draw_head(ctx, person, detail)
    if study.num_active:
        _watch(ctx, study.id, study.num_active)
    report, runs = _choose_runs(detail)
    _draw_fit(detail, report, runs)
    st.subheader("Runs", anchor=False)
    opened = live_runs(ctx, detail.runs, person=person, key="study_runs")
    if opened:
        st.switch_page(routes.RUN, query_params={"run": opened})


def _draw_head(ctx: Context, person: Person, detail: StudyDetail) -> None:
    study = detail.study
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        object_heading(study.name)
        with st.container(horizontal=True, horizontal_alignment="right"):
            if study.num_active and st.button("Stop all", key="study_stop", icon=":material/stop_circle:"):
                with rerun_after():
                    stop_study(ctx, study.id, person=person)
            ended = sum(run.status in {Status.FAILED, Status.CANCELLED} for run in detail.runs)
            if (
                not study.num_active
                and ended
                and st.button(
                    f"Queue {plural(ended, 'run')} again",
                    key="study_again",
                    icon=":material/replay:",
                    help="Failed and stopped runs, each from its newest checkpoint.",
                )
            ):
                with rerun_after():
                    retry_study(ctx, study.id, person=person)
            if not study.num_active and st.button("Archive", key="study_archive", icon=":material/archive:"):
                with errors_shown():
                    archive_study(ctx, study.id, person=person)
                    st.switch_page(PAGE, query_params={"view": "Studies"})
    st.progress(study.num_finished / max(1, study.num_planned), text=_progress_words(detail))
    if study.num_launched < study.num_planned:
        missing = study.num_planned - study.num_launched
        st.warning(f"{plural(missing, 'run')} of this study could not be launched.", icon=":material/warning:")
        if st.button("Launch the rest", key="study_rest", icon=":material/rocket_launch:"):
            with rerun_after():
                launch_study(ctx, study.config, person=person)


def _progress_words(detail: StudyDetail) -> str:
    study = detail.study
    words = f"{study.num_finished} of {plural(study.num_planned, 'run')} finished"
    if study.num_active:
        words += f", {study.num_active} waiting or running"
    if study.num_failed:
        words += f", {study.num_failed} failed"
    if study.num_stopped:
        words += f", {study.num_stopped} stopped"
    return (
        f"{words} · {plain(study.config.dataset)} · {plain(study.config.tokenizer)} · context {study.config.context:,}"
    )


@live_part(3)
def _watch(ctx: Context, study_id: str, active: int) -> None:
    """Rerun the page when a run of the study ends."""
    if get_study(ctx, study_id).num_active != active:
        st.rerun()


def _choose_runs(detail: StudyDetail) -> tuple[FitReport, tuple[PoolRun, ...]]:
    """Return the runs to show: those of the study, or all comparable ones if there are more."""
    pooled = detail.pool.runs if detail.pool else ()
    mine = tuple(run for run in pooled if run.group_id == detail.study.id)
    if detail.pooled is None:
        return detail.own, mine
    chosen = choose_one("Runs", [STUDY_ONLY, EVERYTHING], key="study_points", is_bare=True)
    return (detail.pooled, pooled) if chosen == EVERYTHING else (detail.own, mine)


def _draw_fit(detail: StudyDetail, report: FitReport, runs: tuple[PoolRun, ...]) -> None:
    if not report.points:
        st.info("The first finished runs appear here as points.", icon=":material/hourglass_empty:")
        return
    vocabulary = max((run.vocab_size for run in runs), default=32_000)
    halves = st.grid(2, min_column_width=400, gap="large")
    left, right = halves.cell(), halves.cell()
    with left:
        st.subheader("Loss against size, by budget", anchor=False)
        _draw_profiles(report)
    with right:
        st.subheader("Loss against compute", anchor=False)
        law = report.law.law if report.law else PUBLISHED[DEFAULT_LAW]
        middle = math.sqrt(min(p.flops for p in report.points) * max(p.flops for p in report.points))
        draw_frontier(law, runs, around=middle, ceiling=math.log(vocabulary), spread=100.0)
    if report.law is not None:
        _draw_law(report.law)
        config = detail.study.config
        query = {
            "law": law_label(OWN),
            "dataset": config.dataset.partition("@")[0],
            "tokenizer": config.tokenizer,
            "context": str(config.context),
        }
        page_link(PAGE, "Plan with this law", query, icon="calculate")
    else:
        st.info(plain(report.problem), icon=":material/rule:")
    if detail.pool is not None and detail.pool.left_out:
        with st.expander(
            f"{plural(len(detail.pool.left_out), 'finished run')} on this data can't be used",
            icon=":material/filter_alt_off:",
        ):
            for text in detail.pool.left_out:
                st.text(text)


def _draw_profiles(report: FitReport) -> None:
    in_profiles = [set(profile.points) for profile in report.isoflop.profiles]
    lines = [
        parabola_line(profile, name=f"{format_budget(profile.flops)} FLOPs") for profile in report.isoflop.profiles
    ]
    groups = [[_size_dot(point) for point in profile.points] for profile in report.isoflop.profiles]
    rest = [point for point in report.points if not any(point in points for points in in_profiles)]
    if rest:
        lines.append(CurveLine("Other runs" if lines else "Runs", (), ()))
        groups.append([_size_dot(point) for point in rest])
    best = [_best_dot(profile) for profile in report.isoflop.profiles if profile.best_parameters is not None]
    st.html(figure(profiles_chart(lines, groups, best=best), alt="Loss against parameters for each budget"))
    words = [
        f"{format_budget(profile.flops)} FLOPs: "
        + (
            f"best {short(profile.best_parameters.value)} parameters{profile.best_parameters.bracketed(short)}"
            if profile.best_parameters is not None
            else "minimum at the edge of the trained sizes; add sizes beyond it"
        )
        for profile in report.isoflop.profiles
    ]
    if report.isoflop.exponent is not None:
        words.append(
            "optimal size grows as"
            f" C^{report.isoflop.exponent.value:.2f}{report.isoflop.exponent.bracketed(lambda v: f'{v:.2f}')}"
        )
    st.caption(plain(" · ".join(words)) if words else "A parabola needs four sizes per budget.")


def _draw_law(fit: LawFit) -> None:
    st.subheader("Fitted law", anchor=False)
    grid = st.grid(6, min_column_width=150)
    for name, value in (*fit.constants.items(), ("N grows as C^", fit.parameter_exponent)):
        span = value.bracketed(lambda v: _constant(v, digits=3)).strip()
        vague = (
            value.high is not None
            and value.low is not None
            and abs(value.high) > VAGUE * max(abs(value.low), abs(value.value), 1.0)
        )
        draw_metric(
            grid,
            name,
            _constant(value.value, digits=4),
            help=f"95 % interval: {span}" if vague else None,
            note="poorly determined" if vague else span or None,
        )
    st.caption(
        plain(
            f"L = E + A / N^alpha + B / D^beta · {fit.num_points} runs · typical error "
            f"{percent(fit.typical_error, digits=1)} of the loss · {fit.method}"
        )
    )
    for text in fit.warnings:
        st.caption(f":material/info: {plain(text)}")


def _constant(value: float, *, digits: int) -> str:
    """Format a constant; one at its bound of 0 is shown as 0."""
    if abs(value) < NOTHING:
        return "0"
    return f"{value:.{digits}g}" if abs(value) < 1e5 else f"{value:.1e}"


def _size_dot(point: ScalingPoint) -> Dot:
    return run_dot(point.parameters, point.loss, point.label, parameters=point.parameters, tokens=point.tokens)


def _best_dot(profile: Profile) -> Dot:
    assert profile.best_parameters is not None
    size = profile.best_parameters.value
    return Dot(
        size, profile.loss(size), "Optimal size", f"{format_budget(profile.flops)} FLOPs: {short(size)} parameters"
    )
