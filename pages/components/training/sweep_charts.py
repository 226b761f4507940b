"""Figures of a sweep. Pure: plain data in, a Plotly figure out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from backend.domain.training.config_fields import field_label
from backend.domain.training.sweep import ParameterRange, Point, SweepConfig, label_of_metric
from pages.components.charts.style import ACCENT, LEGEND_BELOW, MUTED
from pages.components.training.run_charts import HEIGHT, Line, RunAxis, parallel_figure, say
from pages.components.words import figure_text


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
        return RunAxis(label_of_metric(path), min(values), max(values), write=write_metric(values))
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
        xaxis={"title": {"text": "Run"}, "tickformat": "d", "range": [0.5, max(config.num_runs, 1) + 0.5]},
        yaxis={
            "title": {"text": label_of_metric(config.metric)},
            "zeroline": False,
            "tickformat": "~g" if "e" in write(best[-1]) else "",
            "automargin": True,
        },
    )
    return figure
