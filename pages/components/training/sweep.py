"""One sweep: progress, best run, figures, table of runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
import streamlit as st

from backend.domain.jobs.states import STATUS_LABELS, Status
from backend.domain.training.config_fields import field_label
from backend.domain.training.sweep import ParameterRange, Point, SweepConfig, label_of_best
from backend.domain.wording import plural
from backend.services.context import Context, Person
from backend.services.training.sweeps import (
    SweepDetail,
    SweepRun,
    SweepView,
    archive_sweep,
    continue_sweep,
    get_sweep,
    list_sweeps,
    stop_sweep,
    sweep_detail,
)
from pages.components import routes
from pages.components.charts.style import ACCENT, LEGEND_BELOW, MUTED
from pages.components.frame import draw_plot, errors_shown, live_part, object_heading, plain, rerun_after
from pages.components.links import back_link, row_link
from pages.components.tables import WidgetTable
from pages.components.training.run_charts import HEIGHT, Line, RunAxis, axis_of, parallel_figure, say
from pages.components.words import figure_text, when

PAGE, LAUNCH = routes.SWEEP, routes.LAUNCH
TABLE = WidgetTable("sweeps", {"Name": 2.5, "Progress": 2, "Best": 2, "When": 1})
MAX_COMPARED = 8


def draw_sweeps(ctx: Context) -> None:
    """Draw the list of sweeps, once opened, if there are any."""
    panel = st.expander("Sweeps", icon=":material/tune:", key="runs_sweeps", on_change="rerun")
    if not panel.open:
        return
    sweeps = list_sweeps(ctx)
    with panel:
        if not sweeps:
            st.caption("No sweeps yet. Launch has them beside single runs.")
            return
        with TABLE.frame():
            for sweep in sweeps:
                columns = TABLE.row(sweep.id)
                with columns[0]:
                    row_link(sweep.name, page=PAGE, query={"sweep": sweep.id}, icon="tune", key=f"sweep_{sweep.id}")
                columns[1].text(_progress_words(sweep))
                columns[2].caption(
                    f"{plain(label_of_best(sweep.config.metric))} {write_metric([sweep.best])(sweep.best)}"
                    if sweep.best is not None
                    else "no results yet"
                )
                columns[3].caption(when(sweep.created_at, now=ctx.now()))


def draw_sweep(ctx: Context, person: Person, sweep_id: str) -> None:
    """Draw a sweep: progress, best run, charts, runs."""
    back_link("All runs", page=routes.RUNS, key="sweep_back")
    detail = sweep_detail(ctx, sweep_id)
    _draw_head(ctx, person, detail.sweep)
    if detail.sweep.is_active:
        _watch(ctx, detail.sweep.id, _mark(detail.sweep))
    if detail.sweep.problem:
        st.warning(plain(detail.sweep.problem), icon=":material/warning:")
    if detail.best is not None:
        _draw_best(detail, detail.best)
    measured = [
        TriedRun(each.number + 1, each.run.name, each.point, each.value)
        for each in detail.runs
        if each.value is not None and each.run.status is not Status.FAILED
    ]
    if measured:
        _draw_charts(detail, measured)
    else:
        st.info("The first results appear here.", icon=":material/hourglass_empty:")
    _draw_runs(detail)


def _draw_head(ctx: Context, person: Person, sweep: SweepView) -> None:
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        object_heading(sweep.name)
        with st.container(horizontal=True, horizontal_alignment="right"):
            if sweep.is_active and st.button("Stop all", key="sweep_stop", icon=":material/stop_circle:"):
                with rerun_after():
                    stop_sweep(ctx, sweep.id, person=person)
            missing = sweep.num_planned - sweep.num_launched - sweep.num_failed
            if (
                sweep.stopped
                and missing > 0
                and st.button(
                    f"Launch the remaining {plural(missing, 'run')}", key="sweep_go_on", icon=":material/play_arrow:"
                )
            ):
                with rerun_after():
                    continue_sweep(ctx, sweep.id, person=person)
            if not sweep.is_active and st.button("Archive", key="sweep_archive", icon=":material/archive:"):
                with errors_shown():
                    archive_sweep(ctx, sweep.id, person=person)
                    st.switch_page(routes.RUNS, query_params={})
    varied = ", ".join(field_label(path) for path in sweep.config.vary)
    st.progress(
        min(1.0, (sweep.num_done + sweep.num_failed) / max(1, sweep.num_planned)),
        text=f"{_progress_words(sweep)} · {sweep.config.method} over {plain(varied)}",
    )


def _progress_words(sweep: SweepView) -> str:
    words = f"{sweep.num_done} of {plural(sweep.num_planned, 'run')} done"
    words += f", {sweep.num_active} queued or running" if sweep.num_active else ""
    words += f", {sweep.num_failed} failed" if sweep.num_failed else ""
    return words + (", stopped" if sweep.stopped else "")


def _mark(sweep: SweepView) -> tuple[object, ...]:
    return sweep.num_launched, sweep.num_active, sweep.num_done, sweep.num_failed, sweep.best, sweep.problem


@live_part(3)
def _watch(ctx: Context, sweep_id: str, mark: tuple[object, ...]) -> None:
    """Rerun the page when the sweep has changed."""
    if _mark(get_sweep(ctx, sweep_id)) != mark:
        st.rerun()


def _draw_best(detail: SweepDetail, best: SweepRun) -> None:
    metric = label_of_best(detail.sweep.config.metric)
    with st.container(
        border=True, horizontal=True, vertical_alignment="center", horizontal_alignment="distribute", key="sweep_best"
    ):
        with st.container(width="content", gap="xsmall"):
            st.markdown(f":material/trophy: **{plain(metric)} {_write(detail, best.value)}** in {plain(best.run.name)}")
            st.caption(plain(" · ".join(f"{field_label(path)} {say(value)}" for path, value in best.point.items())))
        with st.container(horizontal=True, horizontal_alignment="right", width="content"):
            if st.button("Open the run", key="sweep_open_best", icon=":material/monitoring:"):
                st.switch_page(routes.RUN, query_params={"run": best.run.id})
            if st.button("Launch the best config again", key="sweep_again", type="primary", icon=":material/replay:"):
                st.switch_page(LAUNCH, query_params={"run": best.run.id})


def _write(detail: SweepDetail, value: float | None) -> str:
    values = [each.value for each in detail.runs if each.value is not None]
    return "" if value is None else write_metric(values)(value)


def _draw_charts(detail: SweepDetail, measured: list[TriedRun]) -> None:
    fifths = st.grid(5, min_column_width=120)
    left, right = fifths.cell(column_span=3), fifths.cell(column_span=2)
    config = detail.sweep.config
    with left:
        st.subheader("Values and results", anchor=False)
        draw_plot(parallel_chart(config, measured), key="sweep_parallel")
    with right:
        st.subheader("Best so far", anchor=False)
        draw_plot(progress_chart(config, measured), key="sweep_progress")


def _draw_runs(detail: SweepDetail) -> None:
    if not detail.runs:
        return
    metric = label_of_best(detail.sweep.config.metric)
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.subheader("Runs", anchor=False)
        ranked = sorted((each for each in detail.runs if each.value is not None), key=lambda each: each.value or 0.0)
        ranked = ranked[::-1] if detail.sweep.config.goal == "highest" else ranked
        if len(ranked) > 1 and st.button(
            "Compare curves", key="sweep_compare", icon=":material/compare_arrows:", type="tertiary"
        ):
            st.switch_page(
                routes.RUNS, query_params={"compare": ",".join(each.run.id for each in ranked[:MAX_COMPARED])}
            )
    values = [each.value for each in ranked if each.value is not None]
    rows = [
        {
            "Run": each.run.name,
            **{field_label(path): say(value) for path, value in each.point.items()},
            metric: each.value,
            "Steps": each.run.last_step,
            "State": STATUS_LABELS[each.run.status] if (at := each.pruned_at) is None else f"pruned at step {at:,}",
        }
        for each in detail.runs
    ]
    chosen = st.dataframe(
        rows,
        hide_index=True,
        key="sweep_runs",
        on_select="rerun",
        selection_mode="single-row",
        height="content" if len(rows) < 14 else 520,
        alt="Runs of the sweep",
        placeholder="",
        column_config={
            "Run": st.column_config.Column(pinned=True),
            metric: st.column_config.NumberColumn(format=f"%{metric_format(values)}"),
        },
    )
    picked = chosen["selection"]["rows"]
    if picked:
        st.switch_page(routes.RUN, query_params={"run": detail.runs[picked[0]].run.id})


@dataclass(frozen=True)
class TriedRun:
    """A run of the sweep: number from 1, its values, its best result."""

    number: int
    name: str
    point: Point
    value: float


def parallel_chart(config: SweepConfig, runs: Sequence[TriedRun]) -> go.Figure:
    """Return parallel coordinates: an axis per field and one for the metric, a line per run, the best in front."""
    order = sorted(runs, key=lambda run: run.value, reverse=config.goal == "highest")
    paths = [*config.vary, config.metric]
    values = [{**run.point, config.metric: run.value} for run in order]
    lines = [
        Line(run.name, [of[path] for path in paths], rank / max(1, len(order) - 1))
        for rank, (run, of) in enumerate(zip(order, values, strict=True))
    ]
    return parallel_figure([_axis(path, config, runs) for path in paths], lines)


def metric_format(values: Sequence[float]) -> str:
    """Return the format of a metric with as many digits as tell its values apart, four decimals at least: `.4f`."""
    spread = max(values, default=0.0) - min(values, default=0.0)
    largest = max((abs(value) for value in values), default=0.0)
    if largest and (largest < 1e-3 or largest >= 1e5):
        return f".{3 if not spread else min(9, max(3, math.ceil(math.log10(largest / spread)) + 1))}g"
    return f".{4 if not spread else min(9, max(4, math.ceil(-math.log10(spread)) + 1))}f"


def write_metric(values: Sequence[float]) -> Callable[[float], str]:
    """Return a writer of a metric in the format of these values."""
    form = metric_format(values)
    return lambda value: format(value, form)


def _axis(path: str, config: SweepConfig, runs: Sequence[TriedRun]) -> RunAxis:
    if path == config.metric:
        values = [run.value for run in runs]
        return axis_of(label_of_best(path), values, time=False, write=write_metric(values), is_result=True)
    choice = config.vary[path]
    if isinstance(choice, ParameterRange):
        return RunAxis(field_label(path), choice.low, choice.high, choice.log, write=say)
    return RunAxis(field_label(path), words=tuple(dict.fromkeys(choice.values)))


def progress_chart(config: SweepConfig, runs: Sequence[TriedRun]) -> go.Figure:
    """Return each run's result in launch order, with the best so far as steps."""
    figure = go.Figure()
    order = sorted(runs, key=lambda run: run.number)
    better = max if config.goal == "highest" else min
    best = [better(run.value for run in order[: place + 1]) for place in range(len(order))]
    write = write_metric([run.value for run in runs])
    figure.add_scatter(
        x=[run.number for run in order],
        y=best,
        mode="lines",
        name="Best so far",
        line={"color": ACCENT, "width": 2.4, "shape": "hv"},
        customdata=[write(value) for value in best],
        hovertemplate="best after run %{x}: %{customdata}<extra></extra>",
    )
    figure.add_scatter(
        x=[run.number for run in order],
        y=[run.value for run in order],
        mode="markers",
        name="Runs",
        marker={"color": MUTED, "size": 8},
        customdata=[f"{figure_text(run.name)}: {write(run.value)}" for run in order],
        hovertemplate="%{customdata}<extra></extra>",
    )
    figure.update_layout(
        height=HEIGHT,
        margin={"l": 0, "r": 10, "t": 10, "b": 0},
        hovermode="closest",
        legend=LEGEND_BELOW,
        xaxis={
            "title": {"text": "Run"},
            "tickformat": "d",
            "dtick": 1 if config.num_runs <= 12 else None,
            "range": [0.5, max(config.num_runs, 1) + 0.5],
        },
        yaxis={
            "title": {"text": label_of_best(config.metric)},
            "zeroline": False,
            "tickformat": "~g" if "e" in write(best[-1]) else "",
            "automargin": True,
        },
    )
    return figure
