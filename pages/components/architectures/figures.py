"""Figures about the shape of a network. Pure: plain data in, a Plotly figure out."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go

from backend.domain.wording import short

COLORS = ("#B4471F", "#2C6E8F", "#5E8C31", "#8A5AA8", "#C79A1B", "#3F9C8B", "#A8456B", "#7C8A99", "#99703F")
"""Readable on the light and on the dark page."""
NEUTRAL = "#8B8F98"
LABELS: dict[str, str] = {
    "embedding": "Embedding",
    "attention": "Attention",
    "feed_forward": "Feed-forward",
    "norms": "Norms",
    "output_head": "Output head",
    "experts": "Experts",
    "shared_experts": "Shared experts",
    "router": "Router",
    "positions": "Positions",
    "biases": "Biases",
}


def parameters_bar(parts: Mapping[str, int]) -> go.Figure:
    """Return one stacked bar: how the parameters are shared among the components that have any."""
    total = sum(count for key, count in parts.items() if key != "total")
    rows = -(-sum(bool(parts.get(key)) for key in LABELS) // 3)  # of the legend, on a narrow screen
    figure = go.Figure()
    for index, (key, label) in enumerate(LABELS.items()):
        count = parts.get(key, 0)
        if not count:
            continue
        share = count / total
        figure.add_bar(
            y=[""],
            x=[count],
            orientation="h",
            marker_color=COLORS[index % len(COLORS)],
            name=f"{label} {share:.0%}" if share >= 0.005 else f"{label} <1%",
            hovertemplate=f"{label}: {short(count)} ({share:.1%})<extra></extra>",
        )
    return lay_out_bar(figure, total=total, legend_rows=rows)


def lay_out_bar(figure: go.Figure, *, total: float, legend_rows: int) -> go.Figure:
    """Make bars one stacked bar over 0 to `total`, with room below for a legend of some rows."""
    figure.update_layout(
        barmode="stack",
        height=72 + 20 * legend_rows,
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        legend={"orientation": "h", "y": -0.1, "yanchor": "top", "x": 0, "traceorder": "normal"},
        xaxis={"visible": False, "range": [0, total]},
        yaxis={"visible": False},
        bargap=0.2,
    )
    return figure
