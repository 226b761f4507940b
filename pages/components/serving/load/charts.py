"""Figures of load tests. Pure: plain data in, a Plotly figure out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from backend.domain.serving.latency import bucket_middle_s
from pages.components.charts.style import COLORS, LEGEND_BELOW, MARGIN, MUTED
from pages.components.words import figure_text

HEIGHT = 290
HUES = {"gateway": COLORS[0], "replica": COLORS[1]}
DASHES = ("solid", "dot")


@dataclass(frozen=True)
class LoadCurve:
    """One level against one target of one load test, as the figures draw it. `number` is 0 for the chosen test, 1 for
    the compared one.
    """

    label: str
    side: str
    number: int
    summary: Mapping[str, Any]


def distribution_figure(curves: Sequence[LoadCurve], *, field: str, title: str, objective_ms: float) -> go.Figure:
    """Return cumulative distributions of a latency on a log axis, with its objective as a line. Steps are buckets of 8
    %.
    """
    figure = go.Figure()
    for curve in curves:
        counts = {int(bucket): count for bucket, count in (curve.summary.get(f"{field}_counts") or {}).items()}
        total = sum(counts.values())
        if not total:
            continue
        passed, xs, ys = 0, [], []
        for bucket in sorted(counts):
            passed += counts[bucket]
            xs.append(1000 * bucket_middle_s(bucket))
            ys.append(100 * passed / total)
        figure.add_scatter(
            x=[xs[0], *xs],
            y=[0, *ys],
            name=figure_text(curve.label),
            mode="lines",
            line={"color": HUES[curve.side], "width": 1.9, "shape": "hv", "dash": DASHES[curve.number]},
            hovertemplate=f"%{{y:.1f}} % within %{{x:,.3~g}} ms · {figure_text(curve.label)}<extra></extra>",
        )
    figure.add_vline(x=objective_ms, line={"color": MUTED, "width": 1, "dash": "dash"})
    _lay_out(figure, title=title)
    figure.update_xaxes(type="log", title="ms", tickformat=",~g", dtick="D2" if _decades(figure) < 2 else 1)
    figure.update_yaxes(title="% of requests" if field == "ttft" else "% of gaps", range=[0, 102])
    return figure


def course_figure(curves: Sequence[LoadCurve], *, field: str, title: str, unit: str) -> go.Figure:
    """Return a rate over the time of the test: a line per phase, since a target's phases alternate with the other's."""
    figure = go.Figure()
    for curve in curves:
        xs: list[float | None] = []
        ys: list[float | None] = []
        for point in curve.summary.get("points") or ():
            if xs and xs[-1] is not None and point["at_s"] - xs[-1] > 1.6 * _step(curve):
                xs.append(None)
                ys.append(None)
            xs.append(point["at_s"])
            ys.append(point[field])
        if xs:
            figure.add_scatter(
                x=xs,
                y=ys,
                name=figure_text(curve.label),
                mode="lines+markers" if len(xs) < 20 else "lines",
                line={"color": HUES[curve.side], "width": 1.8, "dash": DASHES[curve.number]},
                marker={"size": 5},
                hovertemplate=f"%{{x:.0f}} s: %{{y:,.3~g}} {unit} · {figure_text(curve.label)}<extra></extra>",
            )
    _lay_out(figure, title=title)
    figure.update_xaxes(title="seconds since the start")
    figure.update_yaxes(title=unit, rangemode="tozero")
    return figure


def goodput_figure(curves: Sequence[LoadCurve]) -> go.Figure:
    """Return requests a second per level and target, split into those within the objectives and the others."""
    labels = [figure_text(curve.label) for curve in curves]
    good = [float(curve.summary["goodput_per_s"]) for curve in curves]
    slow = [max(0.0, float(curve.summary["requests_per_s"]) - value) for curve, value in zip(curves, good, strict=True)]
    figure = go.Figure()
    for name, values, color in (("within the objectives", good, COLORS[2]), ("beyond the objectives", slow, MUTED)):
        figure.add_bar(
            y=labels,
            x=values,
            name=name,
            orientation="h",
            marker_color=color,
            hovertemplate=f"%{{x:,.3~g}} requests/s {name}<extra></extra>",
        )
    _lay_out(figure, title="Goodput, requests/s")
    height = 130 + 34 * len(labels)
    figure.update_layout(barmode="stack", height=height, bargap=0.3, legend={**LEGEND_BELOW, "y": -42 / (height - 96)})
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure


def _step(curve: LoadCurve) -> float:
    times = [point["at_s"] for point in curve.summary["points"]]
    return min((b - a for a, b in itertools.pairwise(times) if b > a), default=1.0)


def _decades(figure: go.Figure) -> float:
    values = [x for trace in figure.data for x in trace.x if x]
    return math.log10(max(values) / min(values)) if values else 1.0


def _lay_out(figure: go.Figure, *, title: str) -> None:
    figure.update_layout(
        height=HEIGHT,
        margin={**MARGIN, "t": 34},
        title={"text": title, "font": {"size": 14}, "x": 0, "xanchor": "left", "y": 0.98},
        showlegend=True,
        legend={**LEGEND_BELOW, "y": -0.3},
        hovermode="closest",
    )
