"""Figures of costs. Pure: plain data in, a Plotly figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date

import plotly.graph_objects as go

from backend.domain.wording import format_usd
from backend.services.serving.costs import Category
from pages.components.charts.style import COLORS, LEGEND_BELOW, MARGIN, MUTED, short_name
from pages.components.words import figure_text

LABELS: dict[Category, str] = {
    "requests": "Requests",
    "idle": "Idle endpoints",
    "training": "Training",
    "evaluation": "Evaluation",
    "other": "Other jobs",
}
HUES: dict[Category, str] = {
    "requests": COLORS[1],
    "idle": MUTED,
    "training": COLORS[0],
    "evaluation": COLORS[2],
    "other": COLORS[3],
}
BAR_HEIGHT = 34
PLAIN_DOLLARS = {"tickprefix": "$", "exponentformat": "none"}
"""Ticks of an axis of dollars: `$0.00003`, where the default is `$30µ`."""


def daily_figure(by_day: Mapping[date, Mapping[Category, float]]) -> go.Figure:
    """Return stacked bars of dollars by UTC day and category; categories without a cost are left out."""
    figure = go.Figure()
    days = list(by_day)
    for category, label in LABELS.items():
        values = [by_day[day][category] for day in days]
        if any(values):
            figure.add_bar(
                x=days,
                y=values,
                name=label,
                marker_color=HUES[category],
                customdata=[format_usd(value) for value in values],
                hovertemplate=f"%{{x|%-d %b}}: %{{customdata}} {label}<extra></extra>",
            )
    figure.update_layout(
        barmode="stack",
        height=300,
        margin=MARGIN,
        legend=LEGEND_BELOW,
        xaxis={"title": None, "tickformat": "%-d %b", "dtick": 86_400_000 if len(days) < 8 else None},
        yaxis={"title": "US$ per day (UTC)", "rangemode": "tozero", **PLAIN_DOLLARS},
        bargap=0.25,
    )
    return figure


def split_figure(names: Sequence[str], busy: Sequence[float], idle: Sequence[float]) -> go.Figure:
    """Return a bar per endpoint, split into the shares of requests and idle time."""
    labels = [figure_text(short_name(name)) for name in names]
    figure = go.Figure()
    for label, values, color in (("Requests", busy, HUES["requests"]), ("Idle", idle, HUES["idle"])):
        figure.add_bar(
            y=labels,
            x=list(values),
            name=label,
            orientation="h",
            marker_color=color,
            customdata=[format_usd(value) for value in values],
            hovertemplate=f"%{{y}}: %{{customdata}} {label}<extra></extra>",
        )
    figure.update_layout(
        barmode="stack",
        height=90 + BAR_HEIGHT * len(labels),
        margin=MARGIN,
        legend={**LEGEND_BELOW, "y": -0.4},
        xaxis={"title": None, "rangemode": "tozero", **PLAIN_DOLLARS},
        yaxis={"autorange": "reversed", "automargin": True},
    )
    return figure
