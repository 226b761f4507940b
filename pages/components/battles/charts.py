"""Figures of votes. Pure: plain data in, a Plotly figure out. Sizes in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from backend.domain.battles.rating_table import Rating, WinMatrix
from backend.domain.wording import percent, plural
from pages.components.charts.style import ACCENT, BLUE, MUTED, error_bars, short_name
from pages.components.words import figure_text

ROW_HEIGHT = 42


@dataclass(frozen=True)
class IntervalMark:
    """A number with its interval, one row of the figure."""

    label: str
    value: float
    low: float
    high: float
    hover: str


def rating_marks(ratings: Sequence[Rating]) -> list[IntervalMark]:
    """Return the marks of a leaderboard, best first."""
    return [
        IntervalMark(
            row.contestant,
            row.rating,
            row.low,
            row.high,
            f"{row.rating:.0f} [{row.low:.0f}, {row.high:.0f}], {plural(row.num_cast, 'vote')}",
        )
        for row in ratings
    ]


def interval_chart(marks: Sequence[IntervalMark], *, title: str, reference: float | None = None) -> go.Figure:
    """Return dots with intervals, first mark on top; `reference` draws a dotted line."""
    places = list(range(len(marks)))
    figure = go.Figure(
        go.Scatter(
            x=[mark.value for mark in marks],
            y=places,
            mode="markers",
            marker={"size": 11, "color": ACCENT},
            error_x=error_bars([(mark.value, mark.low, mark.high) for mark in marks], thickness=2.2, width=5),
            customdata=[figure_text(mark.hover) for mark in marks],
            hovertemplate="%{customdata}<extra></extra>",
            showlegend=False,
        )
    )
    if reference is not None:
        figure.add_vline(x=reference, line={"dash": "dot", "width": 1.2, "color": MUTED})
    figure.update_layout(
        height=ROW_HEIGHT * len(marks) + 70,
        margin={"l": 0, "r": 10, "t": 6, "b": 40},
        xaxis={"title": {"text": title}, "zeroline": False},
        yaxis={
            "tickmode": "array",
            "tickvals": places,
            "ticktext": [figure_text(short_name(mark.label)) for mark in marks],
            "range": [len(marks) - 0.5, -0.5],
            "showgrid": False,
            "zeroline": False,
            "automargin": True,
        },
        dragmode=False,
    )
    return figure


def win_chart(wins: WinMatrix) -> go.Figure:
    """Return each row's win share against each column, ties and both bad as half, with the number of votes."""
    names = [figure_text(short_name(name)) for name in wins.contestants]
    size = range(len(names))
    places = [str(place) for place in size]
    figure = go.Figure(
        go.Heatmap(
            z=[[wins.share(row, column) if row != column else None for column in size] for row in size],
            x=places,
            y=places,
            zmin=0,
            zmax=1,
            colorscale=[[0, BLUE], [0.5, MUTED], [1, ACCENT]],
            showscale=False,
            text=[[_cell(wins, row, column) for column in size] for row in size],
            texttemplate="%{text}",
            textfont={"color": "white"},
            hoverinfo="skip",
            xgap=2,
            ygap=2,
        )
    )
    axis = {
        "tickmode": "array",
        "tickvals": places,
        "ticktext": names,
        "showgrid": False,
        "type": "category",
        "automargin": True,
    }
    figure.update_layout(
        height=ROW_HEIGHT * len(names) + 120,
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        xaxis={**axis, "side": "top"},
        yaxis={**axis, "autorange": "reversed"},
        dragmode=False,
    )
    return figure


def _cell(wins: WinMatrix, row: int, column: int) -> str:
    share = wins.share(row, column) if row != column else None
    return "" if share is None else f"{percent(share)} of {wins.num_cast(row, column):,}"
