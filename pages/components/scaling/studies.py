"""Scaling studies: the list, the form of a new one, and one study with its runs, its fit and its law."""

from __future__ import annotations

import math

import streamlit as st

from backend.domain.jobs.states import Status
from backend.domain.json_values import FieldValues
from backend.domain.scaling.curves import CurveLine, parabola_line
from backend.domain.scaling.fit import LawFit
from backend.domain.scaling.isoflop import Profile
from backend.domain.scaling.laws import DEFAULT_LAW, PUBLISHED, ScalingPoint
from backend.domain.scaling.study import StudyConfig, StudyPlan, format_budget, parse_study
from backend.domain.wording import format_duration, percent, plural, short
from backend.errors import RoundhouseError
from backend.services.context import Context, Person
from backend.services.scaling.planner import OWN, PoolRun
from backend.services.scaling.studies import (
    FitReport,
    StudyDetail,
    StudyView,
    archive_study,
    get_study,
    launch_study,
    list_studies,
    preview_study,
    retry_study,
    stop_study,
    study_detail,
    study_yaml,
    suggest_budgets,
)
from pages.components import routes
from pages.components.browser.run_list.component import live_runs
from pages.components.charts.html import figure
from pages.components.choices import choose_one
from pages.components.forms import draw_fields
from pages.components.frame import (
    draw_metric,
    empty_state,
    errors_shown,
    live_part,
    object_heading,
    plain,
    rerun_after,
    show_error,
)
from pages.components.links import back_link, page_link, row_link
from pages.components.numbers import number_form, wrong_numbers
from pages.components.scaling.charts import Dot, profiles_chart, run_dot
from pages.components.scaling.plan import dataset_options, draw_frontier, first_parts, law_label, tokenizer_options
from pages.components.tables import WidgetTable, draw_table
from pages.components.words import when

PAGE = routes.PLANNER
TABLE = WidgetTable("studies", {"Name": 2.5, "Data and tokenizer": 2.5, "Progress": 2, "When": 1})


def draw_studies(ctx: Context, person: Person) -> None:
    """Draw the study named in the address, else the list and the form."""
    if study_id := st.query_params.get("study"):
        _draw_study(ctx, person, study_id)
        return
    studies = list_studies(ctx)
    if studies:
        with TABLE.frame():
            for study in studies:
                _draw_row(ctx, study)
    _draw_new(ctx, person)


def _draw_row(ctx: Context, study: StudyView) -> None:
    columns = TABLE.row(study.id)
    with columns[0]:
        row_link(study.name, page=PAGE, query={"study": study.id}, icon="stacked_line_chart", key=f"study_{study.id}")
    columns[1].caption(plain(f"{study.config.dataset} · {study.config.tokenizer}"))
    state = f"{study.num_finished} of {study.num_planned} runs finished"
    if study.num_active:
        state += f", {study.num_active} to go"
    columns[2].text(state)
    columns[3].caption(when(study.created_at, now=ctx.now()))


@number_form
def _draw_new(ctx: Context, person: Person) -> None:
    st.subheader("New study", anchor=False)
    st.caption(
        "Trains models of several sizes on equal budgets. The size with the lowest loss is optimal for its budget;"
        " several budgets give a scaling law for your data."
    )
    datasets, tokenizers = dataset_options(ctx), tokenizer_options(ctx)
    if not datasets:
        empty_state(
            "A study needs a text dataset.", page=routes.DATASETS, label="Import one", icon=":material/database:"
        )
        return
    if not tokenizers:
        empty_state(
            "A study needs a tokenizer.", page=routes.TOKENIZERS, label="Train one", icon=":material/match_word:"
        )
        return
    halves = st.grid(2, min_column_width=400, gap="large")
    left, right = halves.cell(), halves.cell()
    with left, st.container(border=True):
        values = _draw_form(ctx, datasets, tokenizers)
    with right:
        try:
            config = parse_study(values)
            preview = preview_study(ctx, config)
        except RoundhouseError as error:
            show_error(error)
            return
        _draw_preview(preview)
        _draw_launch(ctx, person, config, preview)


def _draw_form(ctx: Context, datasets: list[str], tokenizers: list[str]) -> FieldValues:
    dataset, tokenizer = first_parts(ctx)
    budgets = tuple(format_budget(budget) for budget in suggest_budgets(ctx))
    values = draw_fields(
        StudyConfig,
        key="study",
        only=("dataset", "tokenizer", "budgets", "law", "sizes", "spread", "context", "seed", "name"),
        values={"dataset": dataset, "tokenizer": tokenizer, "budgets": budgets},
        choices={
            "dataset": {name: name for name in datasets},
            "tokenizer": {name: name for name in tokenizers},
            "law": {law: law_label(law) for law in (*PUBLISHED, OWN)},
        },
        empty={"name": f"{st.session_state.get('study_dataset', dataset)} scaling"},
        columns=2,
    )
    return {**values, "name": values["name"] or f"{values['dataset']} scaling"}


def _draw_preview(preview: StudyPlan) -> None:
    total = plural(len(preview.runs), "run")
    time = (
        f", about {format_duration(preview.seconds)} one after the other"
        if preview.seconds is not None
        else ", how long is not known yet"
    )
    st.markdown(f"**{total}{time}**")
    rows = [
        {
            "Budget": format_budget(run.budget),
            "Parameters": run.parameters,
            "Tokens": short(run.tokens),
            "Steps": run.config.max_steps,
            "Learning rate": run.config.learning_rate,
            "Epochs": None if run.epochs is None else round(run.epochs, 2),
            **({} if run.seconds is None else {"Time": format_duration(run.seconds)}),
        }
        for run in preview.runs
    ]
    with st.container(height=420 if len(rows) > 10 else "content", border=False):
        draw_table(rows, key="study_preview", alt="Runs of the study", formats={"Learning rate": ".3g"})
    for text in preview.notes:
        st.caption(f":material/info: {plain(text)}")


def _draw_launch(ctx: Context, person: Person, config: StudyConfig, preview: StudyPlan) -> None:
    if st.button(
        f"Launch {plural(len(preview.runs), 'run')}",
        key="study_launch",
        type="primary",
        icon=":material/rocket_launch:",
        disabled=bool(wrong_numbers()),
    ):
        with errors_shown():
            study = launch_study(ctx, config, person=person)
            st.switch_page(PAGE, query_params={"study": study.id})
    with st.expander("Show as YAML", icon=":material/data_object:"):
        st.code(study_yaml(config), language="yaml")
        st.caption("`roundhouse plan study FILE.yaml --launch` launches it.")


_VAGUE = 1e4  # an interval that reaches this many times above its value is uninformative
NOTHING = 1e-9
STUDY_ONLY, EVERYTHING = "This study", "All finished runs on this data"


def _draw_study(ctx: Context, person: Person, study_id: str) -> None:
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
            and abs(value.high) > _VAGUE * max(abs(value.low), abs(value.value), 1.0)
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
