"""Figures of scores with their intervals. Pure: plain data in, a Plotly figure out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from backend.domain.evaluation.config import score_name
from backend.domain.evaluation.score_text import interval_text, is_share, score_label, score_text
from pages.components.charts.style import ACCENT, COLORS, LEGEND_BELOW, MARGIN, MUTED, error_bars
from pages.components.words import figure_text

ROW_HEIGHT = 34


@dataclass(frozen=True)
class ScoreDot:
    """A score with its interval; `highlighted` if it is not significantly below the best."""

    name: str
    value: float
    low: float | None
    high: float | None
    highlighted: bool = True


def score_figure(dots: Sequence[ScoreDot], *, metric: str, chance: float | None = None) -> go.Figure:
    """Return a dot with an interval for each score, top to bottom; `chance` is a dotted line."""
    scale = 100.0 if is_share(metric) else 1.0
    names = [figure_text(dot.name) for dot in dots]
    figure = go.Figure()
    figure.add_scatter(
        x=[scale * dot.value for dot in dots],
        y=names,
        mode="markers",
        marker={
            "color": ACCENT,
            "size": 11,
            "symbol": ["circle" if dot.highlighted else "circle-open" for dot in dots],
        },
        error_x=error_bars([(dot.value, dot.low, dot.high) for dot in dots], scale=scale, thickness=1.6, width=5),
        customdata=[
            f"{score_text(metric, dot.value)}, {interval_text(metric, dot.low, dot.high) or 'no interval'}"
            for dot in dots
        ],
        hovertemplate="%{y}: %{customdata}<extra></extra>",
        showlegend=False,
    )
    if chance is not None:
        figure.add_vline(
            x=scale * chance,
            line={"dash": "dot", "width": 1.5, "color": MUTED},
            annotation_text="chance",
            annotation_position="top",
        )
    title = score_label(metric) + (", %" if is_share(metric) else "")
    figure.update_layout(
        height=70 + ROW_HEIGHT * len(dots) + (16 if chance is not None else 0),
        margin={**MARGIN, "t": 24 if chance is not None else 8},
        xaxis={"title": title, "zeroline": False},
        yaxis={"categoryorder": "array", "categoryarray": names[::-1], "automargin": True, "title": None},
        hovermode="closest",
    )
    return figure


@dataclass(frozen=True)
class ScoreLine:
    """A score by training step with its intervals."""

    name: str
    metric: str
    points: Sequence[tuple[int, float, float | None, float | None]]


def curve_figure(
    losses: Sequence[tuple[int, float]], lines: Sequence[ScoreLine], *, mark: int | None = None
) -> go.Figure:
    """Return scores by step above the validation loss at the same steps; one panel for shares, one for each other
    metric, one for the loss. `mark` is a step that a dotted line shows.
    """
    panels: dict[str, list[ScoreLine]] = {}
    for line in sorted(lines, key=lambda line: not is_share(line.metric)):
        panels.setdefault("score, %" if is_share(line.metric) else score_name(line.metric), []).append(line)
    rows = len(panels) + bool(losses)
    figure = make_subplots(rows=max(1, rows), cols=1, shared_xaxes=True, vertical_spacing=0.09)
    colors = {line.name: COLORS[place % len(COLORS)] for place, line in enumerate(lines)}
    for row, (title, members) in enumerate(panels.items(), 1):
        for line in members:
            figure.add_trace(_score_line(line, color=colors[line.name]), row=row, col=1)
        figure.update_yaxes(title=title, row=row, col=1)
    if losses:
        steps, values = zip(*losses, strict=True)
        loss = go.Scatter(
            x=steps, y=values, mode="lines+markers", line={"color": MUTED}, name="val_loss", showlegend=False
        )
        figure.add_trace(loss, row=rows, col=1)
        figure.update_yaxes(title="validation loss", row=rows, col=1)
    figure.update_xaxes(title="step", row=max(1, rows), col=1)
    if mark is not None:
        figure.add_vline(x=mark, line={"dash": "dot", "width": 1.5, "color": MUTED})
    figure.update_layout(
        height=120 + 190 * max(1, rows), margin=MARGIN, legend={**LEGEND_BELOW, "y": -0.18}, hovermode="closest"
    )
    return figure


def _score_line(line: ScoreLine, *, color: str) -> go.Scatter:
    scale = 100.0 if is_share(line.metric) else 1.0
    values = [value for _, value, _, _ in line.points]
    return go.Scatter(
        x=[step for step, *_ in line.points],
        y=[scale * value for value in values],
        mode="lines+markers",
        name=figure_text(line.name),
        line={"color": color},
        error_y=error_bars([point[1:] for point in line.points], scale=scale, thickness=1.2, width=3),
    )


def difference_figure(value: float, low: float | None, high: float | None, *, metric: str, better: str) -> go.Figure:
    """Return a difference with its interval and a line at zero. `better` names the good direction."""
    scale = 100.0 if is_share(metric) else 1.0
    interval = interval_text(metric, low, high, signed=True)
    figure = go.Figure()
    figure.add_vline(x=0, line={"width": 1.5, "color": MUTED})
    figure.add_scatter(
        x=[scale * value],
        y=[""],
        mode="markers",
        marker={"color": ACCENT, "size": 12},
        error_x=error_bars([(value, low, high)], scale=scale, thickness=2, width=7),
        hovertemplate=f"{score_text(metric, value, signed=True)}, {interval or 'no interval'}<extra></extra>",
        showlegend=False,
    )
    reach = 1.15 * scale * max(abs(bound) for bound in (value, low or 0.0, high or 0.0, 1e-9))
    figure.update_layout(
        height=120,
        margin=MARGIN,
        xaxis={
            "title": f"{score_label(metric)}, difference{' in points' if is_share(metric) else ''} ({better})",
            "range": [-reach, reach],
        },
        yaxis={"visible": False},
    )
    return figure
