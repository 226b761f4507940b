"""Figures of a data report. Pure: plain data in, a Plotly figure out."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from backend.domain.data.reports.report import Language, Lengths
from backend.domain.wording import percent
from pages.components.charts.style import ACCENT, MARGIN, MUTED
from pages.components.words import figure_text


def length_figure(lengths: Lengths, *, context: int, cuts: bool) -> go.Figure:
    """Return a histogram of tokens per row with the context as a line; `cuts` colours the rows it truncates."""
    starts, width = lengths.edges[:-1], (lengths.edges[1] - lengths.edges[0]) if len(lengths.edges) > 1 else 1
    figure = go.Figure()
    figure.add_bar(
        x=[start + width / 2 for start in starts],
        y=lengths.counts,
        width=0.92 * width,
        marker_color=[ACCENT if cuts and start >= context else MUTED for start in starts],
        customdata=[f"{start:,} to {end - 1:,} tokens" for start, end in zip(starts, lengths.edges[1:], strict=True)],
        hovertemplate="%{customdata}: %{y:,} rows<extra></extra>",
        showlegend=False,
    )
    reach: float = starts[-1] + width if starts else 1  # the last bar holds all longer rows
    if context <= 1.6 * reach:
        reach = max(reach, 1.04 * context)
        figure.add_vline(
            x=context,
            line={"dash": "dot", "width": 1.5, "color": ACCENT},
            annotation_text=f"context {context:,}",
            annotation_position="top",
        )
    figure.update_layout(
        height=230,
        margin={**MARGIN, "t": 24},
        bargap=0,
        xaxis={"title": "Tokens per row", "range": [0, reach], "zeroline": False},
        yaxis={"title": "Rows", "rangemode": "tozero"},
    )
    return figure


def language_figure(languages: Sequence[Language]) -> go.Figure:
    """Return the share of each language."""
    names = [figure_text(language.name) for language in languages]
    figure = go.Figure()
    figure.add_bar(
        y=names,
        x=[100 * language.share for language in languages],
        orientation="h",
        marker_color=MUTED,
        text=[percent(language.share, digits=1) for language in languages],
        textposition="outside",
        cliponaxis=False,
        customdata=[language.rows for language in languages],
        hovertemplate="%{y}: %{customdata:,} rows<extra></extra>",
    )
    figure.update_layout(
        height=40 + 28 * len(names),
        margin={**MARGIN, "t": 8, "r": 48},
        xaxis={"visible": False, "range": [0, 115]},
        yaxis={"categoryorder": "array", "categoryarray": names[::-1], "automargin": True, "title": None},
    )
    return figure
