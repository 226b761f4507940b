"""Figures of a network's shape. Pure: plain data in, a Plotly figure out."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go

from backend.domain.wording import short
from pages.components.charts.style import COLORS, lay_out_bar

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
    """Return the parameters by component as one stacked bar."""
    total = sum(count for key, count in parts.items() if key != "total")
    rows = -(-sum(bool(parts.get(key)) for key in LABELS) // 3)  # rows of the legend on a narrow screen
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
