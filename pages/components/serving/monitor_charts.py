"""Figures of traffic and machines over time. Pure: plain data in, a Plotly figure out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise

import plotly.graph_objects as go

from pages.components.charts.style import ACCENT, BLUE, COLORS, LEGEND_BELOW, MARGIN, MUTED
from pages.components.words import figure_text

HEIGHT = 240
FEW = 5
EDGE = 0.012
"""Share of the time axis that is added on either side."""
Points = Sequence[tuple[datetime, float | None]]
Series = tuple[str, Points]


def break_at_gaps(points: Points, *, step_s: int) -> Points:
    """Return the points with a missing value where a step has no reading, so that no line is drawn over the time."""
    step = timedelta(seconds=step_s)
    gaps = [(before + step, None) for (before, _), (after, _) in pairwise(points) if after - before > 1.5 * step]
    return sorted([*points, *gaps], key=lambda point: point[0])


def lines_figure(
    series: Sequence[Series],
    *,
    title: str,
    unit: str = "",
    is_share: bool = False,
    is_count: bool = False,
    is_bytes: bool = False,
    start: datetime,
    end: datetime,
) -> go.Figure:
    """Return a line per series over the whole window; a missing value is a gap. Counts have whole ticks; bytes are in
    GB, those below one in MB.
    """
    figure = go.Figure()
    top = max((value for _, points in series for _, value in points if value is not None), default=0.0)
    scale = 100.0 if is_share else 1.0
    if is_bytes:
        scale, unit = (1e-9, "GB") if top >= 1e9 else (1e-6, "MB")
    suffix = " %" if is_share else f" {unit}".rstrip()
    for number, (name, points) in enumerate(series):
        figure.add_scatter(
            x=[moment for moment, _ in points],
            y=[None if value is None else value * scale for _, value in points],
            name=figure_text(name),
            mode="lines+markers",
            marker={"size": marker_sizes(points)},
            cliponaxis=False,
            line={"color": COLORS[(1, 0, 3, 2, 4, 5, 6, 7)[number % 8]], "width": 1.8},
            hovertemplate=f"%{{x|%-d %b %H:%M}}: %{{y:,.3~g}}{suffix} {figure_text(name)}<extra></extra>",
        )
    _lay_out(figure, title=title, unit="%" if is_share else unit, start=start, end=end, legend=len(series) > 1)
    if is_count and top <= FEW:
        figure.update_yaxes(dtick=1, range=[0, max(1.0, top) * 1.08])
    return figure


def marker_sizes(points: Points) -> list[int]:
    """Return the size of each point's marker: values without a neighbour, which no line shows, have one."""
    known = [value is not None for _, value in points]
    alone = [not before and not after for before, after in zip([False, *known[:-1]], [*known[1:], False], strict=True)]
    return [5 if is_alone else 0 for is_alone in alone]


def stacked_figure(series: Sequence[Series], *, title: str, start: datetime, end: datetime) -> go.Figure:
    """Return stacked bars per step; series without a value are left out."""
    figure = go.Figure()
    for (name, points), color in zip(series, (BLUE, COLORS[4], COLORS[3], ACCENT), strict=False):
        if any(value for _, value in points):
            figure.add_bar(
                x=[moment for moment, _ in points],
                y=[value for _, value in points],
                name=name,
                marker_color=color,
                hovertemplate=f"%{{x|%-d %b %H:%M}}: %{{y:,}} {name}<extra></extra>",
            )
    figure.update_layout(barmode="stack", bargap=0.08)
    _lay_out(figure, title=title, unit="", start=start, end=end, legend=True)
    return figure


def _lay_out(figure: go.Figure, *, title: str, unit: str, start: datetime, end: datetime, legend: bool) -> None:
    margin = (end - start) * EDGE  # bars stand on the middle of their step, and the newest is at the very edge
    figure.update_layout(
        height=HEIGHT + (30 if legend else 0),
        margin={**MARGIN, "t": 34},
        title={"text": title, "font": {"size": 14}, "x": 0, "xanchor": "left", "y": 0.98},
        showlegend=legend,
        legend={**LEGEND_BELOW, "y": -0.2},
        xaxis={
            "title": None,
            "range": [start - margin, end + margin],
            "type": "date",
            "nticks": 6,
            "tickformat": "%H:%M" if (end - start).days < 2 else "%-d %b",
        },
        yaxis={"title": unit or None, "rangemode": "tozero"},
        hovermode="x",
    )
    if all(value is None for trace in figure.data for value in trace.y):
        figure.update_yaxes(visible=False)
        figure.add_annotation(
            text="Nothing in this window",
            xref="paper",
            yref="paper",
            x=0.5,
            y=0.5,
            showarrow=False,
            font={"color": MUTED},
        )
