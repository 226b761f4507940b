"""Figures of a sweep. Pure: plain data in, a Plotly figure out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from backend.domain.training.config_fields import field_label
from backend.domain.training.sweep import ParameterRange, Point, SweepConfig
from pages.components.charts.style import ACCENT, LEGEND_BELOW, MUTED, fade, mix_colours
from pages.components.words import figure_text

HEIGHT = 360
FAINT = fade(MUTED, 0.45)


@dataclass(frozen=True)
class Tried:
    """A run of the sweep: number from 1, its values, its best result."""

    number: int
    name: str
    point: Point
    value: float


def parallel_chart(config: SweepConfig, runs: Sequence[Tried]) -> go.Figure:
    """Return parallel coordinates: an axis per field and one for the metric, a line per run, the best in front.

    Drawn as SVG lines: Plotly's own trace needs WebGL, ignores the theme, and has no hover.
    """
    figure = go.Figure()
    axes = [*config.vary, config.metric]
    scales = {path: _Scale.of(path, config, runs) for path in axes}
    order = sorted(runs, key=lambda run: run.value, reverse=config.goal == "highest")
    for rank, run in reversed(list(enumerate(order))):
        share = rank / max(1, len(order) - 1)
        values = {**run.point, config.metric: run.value}
        values_text = "<br>".join(
            f"{figure_text(field_label(path))}: {figure_text(say(values[path]))}" for path in axes
        )
        figure.add_scatter(
            x=list(range(len(axes))),
            y=[scales[path].at(values[path]) for path in axes],
            mode="lines+markers",
            showlegend=False,
            line={"color": _color(share), "width": 3.2 if rank == 0 else 1.6},
            marker={"size": 7 if rank == 0 else 5},
            opacity=1.0 if rank == 0 else 0.85,
            hovertemplate=f"<b>{figure_text(run.name)}</b><br>{values_text}<extra></extra>",
        )
    for place, path in enumerate(axes):
        figure.add_shape(type="line", x0=place, x1=place, y0=0, y1=1, line={"color": FAINT, "width": 1}, layer="below")
        for at, word in scales[path].ticks():
            figure.add_annotation(
                x=place,
                y=at,
                text=figure_text(word),
                showarrow=False,
                xanchor="left",
                xshift=5,
                yshift=8,
                font={"size": 11, "color": MUTED},
            )
    labels = [figure_text(field_label(path)).replace(" ", "<br>") for path in axes]
    figure.update_layout(
        height=HEIGHT,
        margin={"l": 20, "r": 60, "t": 20, "b": 0},
        hovermode="closest",
        showlegend=False,
        xaxis={
            "tickmode": "array",
            "tickvals": list(range(len(axes))),
            "ticktext": labels,
            "showgrid": False,
            "zeroline": False,
            "range": [-0.15, len(axes) - 0.9],
            "side": "top",
            "tickangle": 0,
        },
        yaxis={"visible": False, "range": [-0.04, 1.08]},
    )
    return figure


def progress_chart(config: SweepConfig, runs: Sequence[Tried]) -> go.Figure:
    """Return each run's result in launch order, with the best so far as steps."""
    figure = go.Figure()
    order = sorted(runs, key=lambda run: run.number)
    better = max if config.goal == "highest" else min
    best = [better(run.value for run in order[: place + 1]) for place in range(len(order))]
    figure.add_scatter(
        x=[run.number for run in order],
        y=best,
        mode="lines",
        name="Best so far",
        line={"color": ACCENT, "width": 2.4, "shape": "hv"},
        hovertemplate="best after run %{x}: %{y:.4f}<extra></extra>",
    )
    figure.add_scatter(
        x=[run.number for run in order],
        y=[run.value for run in order],
        mode="markers",
        name="Runs",
        marker={"color": MUTED, "size": 8},
        customdata=[figure_text(run.name) for run in order],
        hovertemplate="%{customdata}: %{y:.4f}<extra></extra>",
    )
    figure.update_layout(
        height=HEIGHT,
        margin={"l": 0, "r": 10, "t": 10, "b": 0},
        hovermode="closest",
        legend=LEGEND_BELOW,
        xaxis={"title": {"text": "Run"}, "tickformat": "d", "range": [0.5, max(config.num_runs, 1) + 0.5]},
        yaxis={"title": {"text": config.metric}, "zeroline": False},
    )
    return figure


def say(value: object) -> str:
    """Format a value of a field."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class _Scale:
    """An axis from 0 to 1: linear, logarithmic or categorical."""

    low: float
    high: float
    log: bool
    words: tuple[object, ...] = ()

    @classmethod
    def of(cls, path: str, config: SweepConfig, runs: Sequence[Tried]) -> _Scale:
        if path == config.metric:
            values = [run.value for run in runs]
            return cls(min(values), max(values), False)
        choice = config.vary[path]
        if isinstance(choice, ParameterRange):
            return cls(choice.low, choice.high, choice.log)
        return cls(0, 1, False, tuple(dict.fromkeys(choice.values)))

    def at(self, value: object) -> float:
        if self.words:
            return (
                self.words.index(value) / max(1, len(self.words) - 1)
                if value in self.words and len(self.words) > 1
                else 0.5
            )
        number = float(value)  # type: ignore[arg-type]
        if self.high <= self.low:
            return 0.5
        if self.log:
            return math.log(number / self.low) / math.log(self.high / self.low)
        return (number - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        if self.words:
            return [(self.at(word), say(word)) for word in self.words]
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        return [(self.at(value), f"{value:.3g}") for value in dict.fromkeys((self.low, middle, self.high))]


def _color(share: float) -> str:
    """Return the colour of a rank: 0 is the best run, 1 the worst."""
    return mix_colours(ACCENT, MUTED, share)
