"""Figures of scaling laws and studies. Pure: plain data in, a Plotly figure out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from backend.domain.scaling.curves import Line
from backend.domain.scaling.study import say_budget
from backend.domain.wording import short
from pages.components.charts.style import ACCENT, COLORS, LEGEND_BELOW, MARGIN, MUTED, fade
from pages.components.words import figure_text

HEIGHT = 400
DASHES = ("dash", "dot", "dashdot")


@dataclass(frozen=True)
class Dot:
    """One run, or one planned network, on a figure."""

    x: float
    y: float
    name: str
    hover: str = ""


def frontier_chart(lines: Sequence[Line], runs: Sequence[Dot], *, marked: Dot | None = None) -> go.Figure:
    """Return loss against compute: laws as lines (the first with its band and floor E), runs as dots."""
    figure = go.Figure()
    dashes = iter(DASHES)
    for line in lines:
        if not line.x:
            continue
        first = line is lines[0]
        if line.low and first:
            _add_band(figure, line)
        figure.add_scatter(
            x=line.x,
            y=line.y,
            mode="lines",
            name=figure_text(line.name),
            line={"color": ACCENT if first else MUTED, "width": 2.4 if first else 1.6, "dash": "solid" if first else next(dashes, "dot")},
            hovertemplate="%{x:.2e} FLOPs: %{y:.3f}<extra></extra>",
        )
        if line.floor is not None and first:
            figure.add_hline(
                y=line.floor,
                line={"dash": "dot", "width": 1.2, "color": ACCENT},
                annotation_text=f"E = {line.floor:.3f}",
                annotation_position="bottom left",
                annotation_font_color=ACCENT,
            )
    _add_dots(figure, runs, name="Your runs", color=COLORS[1])
    if marked is not None:
        _add_mark(figure, marked)
    return _finish(figure, title="Training FLOPs", write=say_budget)


def profiles_chart(
    lines: Sequence[Line], groups: Sequence[Sequence[Dot]], *, best: Sequence[Dot] = (), marked: Dot | None = None
) -> go.Figure:
    """Return loss against parameters, one colour per budget: its line, its runs, and a diamond at the minimum.

    `groups` has the runs of each line, in the same order; empty groups for lines that are a law's.
    """
    figure = go.Figure()
    for place, line in enumerate(lines):
        color = COLORS[place % len(COLORS)]
        if line.x:
            figure.add_scatter(
                x=line.x,
                y=line.y,
                mode="lines",
                name=figure_text(line.name),
                line={"color": color, "width": 2},
                hovertemplate="%{x:.3s} parameters: %{y:.3f}<extra></extra>",
                legendgroup=str(place),
            )
        _add_dots(figure, groups[place] if place < len(groups) else (), name=line.name, color=color, legend=not line.x, group=str(place))
    if best:
        figure.add_scatter(
            x=[dot.x for dot in best],
            y=[dot.y for dot in best],
            mode="markers",
            name="Optimal size",
            marker={"symbol": "diamond", "size": 11, "color": MUTED, "line": {"width": 1.5, "color": "white"}},
            customdata=[figure_text(dot.hover) for dot in best],
            hovertemplate="%{customdata}<extra></extra>",
        )
    if marked is not None:
        _add_mark(figure, marked)
    return _finish(figure, title="Parameters", write=short)


def run_dot(x: float, loss: float, name: str, *, parameters: float, tokens: float) -> Dot:
    """Return a finished run as a dot with its hover text."""
    return Dot(x, loss, name, f"{name}: loss {loss:.4f}, {short(parameters)} parameters, {short(tokens)} tokens")


def _add_band(figure: go.Figure, line: Line) -> None:
    finite = [i for i, (low, high) in enumerate(zip(line.low, line.high, strict=True)) if math.isfinite(low) and math.isfinite(high)]
    if not finite:
        return
    x = [line.x[i] for i in finite]
    figure.add_scatter(
        x=[*x, *x[::-1]],
        y=[*(line.high[i] for i in finite), *(line.low[i] for i in reversed(finite))],
        mode="lines",
        fill="toself",
        fillcolor=fade(ACCENT, 0.18),
        line={"width": 0},
        hoverinfo="skip",
        name="95 % interval",
    )


def _add_dots(figure: go.Figure, dots: Sequence[Dot], *, name: str, color: str, legend: bool = True, group: str | None = None) -> None:
    if not dots:
        return
    figure.add_scatter(
        x=[dot.x for dot in dots],
        y=[dot.y for dot in dots],
        mode="markers",
        name=figure_text(name),
        showlegend=legend,
        legendgroup=group,
        marker={"color": color, "size": 9, "opacity": 0.9},
        customdata=[figure_text(dot.hover or dot.name) for dot in dots],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _add_mark(figure: go.Figure, dot: Dot) -> None:
    figure.add_scatter(
        x=[dot.x],
        y=[dot.y],
        mode="markers",
        name=figure_text(dot.name),
        marker={"symbol": "star", "size": 15, "color": COLORS[4], "line": {"width": 1, "color": "white"}},
        customdata=[figure_text(dot.hover or dot.name)],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _finish(figure: go.Figure, *, title: str, write: Callable[[float], str]) -> go.Figure:
    places = [float(x) for trace in figure.data for x in (trace.x or ())]
    low, high = (min(places), max(places)) if places else (1.0, 1.0)
    near = high < 2 * low  # few similar runs: without room around them the axis would have no round tick
    if near:
        low, high = low / 3, high * 3
    ticks = log_ticks(low, high) if places else []
    figure.update_layout(
        height=HEIGHT,
        margin=MARGIN,
        legend=LEGEND_BELOW,
        hovermode="closest",
        xaxis={
            "title": {"text": title},
            "type": "log",
            "tickmode": "array",
            "tickvals": ticks,
            "ticktext": [write(x) for x in ticks],
            "range": [math.log10(low), math.log10(high)] if near and places else None,
        },
        yaxis={"title": {"text": "Loss, nats per token"}, "zeroline": False},
    )
    return figure


def log_ticks(low: float, high: float) -> list[float]:
    """Return ticks of a logarithmic axis: powers of ten over a wide range, also 2 and 5 times those over a narrow one."""
    decades = math.log10(high / low) if high > low else 0.0
    stride = max(1, round(decades / 6))
    factors = (1,) if decades > 3 else (1, 3) if decades > 1.6 else (1, 2, 5)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1, stride)
    return [factor * 10.0**power for power in powers for factor in factors if low <= factor * 10.0**power <= high]
