"""Figures about tokenizers. Pure: plain data in, a Plotly figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from pages.components.reading_charts import LINES, MARGIN
from pages.components.words import figure_text

BAR, GAP = 15, 14


def measure_bars(values: Mapping[str, Sequence[float | None]], places: Sequence[str], *, title: str, percent: bool) -> go.Figure:
    """Return a group of bars for each place (a dataset, a language), the first on top, one bar for each tokenizer.

    `values` maps a tokenizer to its value at each place, None where there is none.
    """
    names = [figure_text(place) for place in places]
    figure = go.Figure()
    for order, (tokenizer, row) in enumerate(values.items()):
        shown = [None if value is None else 100 * value if percent else value for value in row]
        figure.add_bar(
            y=names, x=shown, name=figure_text(tokenizer), orientation="h", marker_color=LINES[order % len(LINES)],
            text=["" if value is None else f"{value:.1f}%" if percent else f"{value:.2f}" for value in shown], textposition="outside",
            cliponaxis=False, hovertemplate="%{y}: %{text}<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    reach = max((value for row in values.values() for value in row if value is not None), default=0.0) * (100 if percent else 1)
    figure.update_layout(
        height=70 + len(names) * (BAR * len(values) + GAP) + 22, margin={**MARGIN, "t": 0, "r": 24}, barmode="group", bargap=0.25,
        xaxis={"title": title, "range": [0, max(reach * 1.12, 1e-9)], "zeroline": False},
        yaxis={"autorange": "reversed", "automargin": True, "type": "category", "title": None, "showgrid": False},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"}, showlegend=len(values) > 1,
    )  # fmt: skip
    return figure
