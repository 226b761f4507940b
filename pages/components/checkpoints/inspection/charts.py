"""Figures of inspections. Pure: plain data in, a Plotly figure out. Translucent colours suit light and dark pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from backend.domain.wording import percent, shorten
from pages.components.charts.style import ACCENT, BLUE, COLORS, MARGIN, MUTED, fade
from pages.components.words import figure_text

Array = npt.NDArray[Any]
SHADES = [[share, fade(ACCENT, share**0.5)] for share in (0.0, 0.01, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)]
"""Opacity by the square root of the value, so that weak weights remain visible next to a strong one."""
EVEN_SHADES = [[0.0, fade(ACCENT, 0.04)], [1.0, fade(ACCENT, 0.95)]]
TILE = 40
"""Cells along each side of a small map; longer texts are max-pooled."""
PICTURES = {"\n": "↵", "\t": "→", " ": "·", "\r": "␍"}


def figure_token(text: str, limit: int = 14) -> str:
    """Write a token for a figure: spaces and breaks as pictures, unseen letters as codes, cut to `limit`, escaped."""
    letters = [PICTURES.get(letter, letter if letter.isprintable() else f"⟨{ord(letter):x}⟩") for letter in text]
    return figure_text(shorten("".join(letters), limit)) or "∅"


def numbered(labels: Sequence[str]) -> list[str]:
    """Return axis labels that are all different: `12 the`."""
    return [f"{place} {figure_token(text)}" for place, text in enumerate(labels)]


def alternatives_bar(rows: Sequence[tuple[str, float]], *, marked: int | None = None) -> go.Figure:
    """Return bars of (token, probability), likeliest first; `marked` is the index of the actual token."""
    names = [f"{place + 1}  {figure_token(text, 22)}" for place, (text, _) in enumerate(rows)]
    shares = [100 * probability for _, probability in rows]
    figure = go.Figure()
    figure.add_bar(
        y=names,
        x=shares,
        orientation="h",
        marker_color=[ACCENT if marked == place else MUTED for place in range(len(rows))],
        text=[share_text(share / 100) for share in shares],
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{y}: %{text}<extra></extra>",
    )
    reach = max([*shares, 1.0]) * 1.25
    figure.update_layout(
        height=28 * len(rows) + 16,
        margin=MARGIN,
        bargap=0.3,
        xaxis={"visible": False, "range": [0, reach]},
        yaxis={"autorange": "reversed", "automargin": True, "type": "category", "title": None},
    )
    return figure


def share_text(share: float) -> str:
    """Write a probability: `41 %`, `0.32 %`, `1.2e-5`."""
    if share >= 0.0995:
        return percent(share)
    return percent(share, digits=2) if share >= 1e-4 else f"{share:.1e}"


def head_overview(values: Array, *, title: str, percent: bool) -> go.Figure:
    """Return one cell per head: layers up, heads to the right. `values` [layers, heads], NaN where it has fewer."""
    layers, heads = values.shape
    shown = 100 * values if percent else values
    figure = go.Figure()
    figure.add_heatmap(
        z=np.round(shown, 3),
        x=[str(head) for head in range(heads)],
        y=[str(layer) for layer in range(layers)],
        colorscale=EVEN_SHADES,
        xgap=1,
        ygap=1,
        colorbar={"title": {"text": title, "side": "right"}, "thickness": 10},
        hovertemplate=f"layer %{{y}}, head %{{x}}: %{{z:.3g}}{' %' if percent else ''}<extra></extra>",
    )
    figure.update_layout(
        height=max(150, 90 + 18 * layers),
        margin=MARGIN,
        xaxis={"title": "Head", "type": "category", "showgrid": False},
        yaxis={"title": "Layer", "type": "category", "showgrid": False},
    )
    return figure


def attention_map(weights: Array, labels: Sequence[str]) -> go.Figure:
    """Return one head's map: queries downwards, keys to the right. `weights` [T, T]."""
    names = numbered(labels)
    size = len(names)
    figure = go.Figure()
    figure.add_heatmap(
        z=np.round(100 * np.where(np.tri(size, dtype=bool), weights, np.nan), 2),
        x=names,
        y=names,
        colorscale=SHADES,
        zmin=0,
        zmax=100,
        colorbar={"title": {"text": "Attention, %", "side": "right"}, "thickness": 10},
        hoverongaps=False,
        hovertemplate="from %{y}<br>to %{x}: %{z} %<extra></extra>",
    )
    figure.update_layout(
        height=min(760, max(320, 130 + 15 * size)),
        margin=MARGIN,
        xaxis={"title": "To", "tickangle": -60, "type": "category", "automargin": True, "showgrid": False},
        yaxis={"title": "From", "autorange": "reversed", "type": "category", "automargin": True, "showgrid": False},
    )
    return figure


def pool(weights: Array, cells: int) -> Array:
    """Shrink [..., T, T] to at most `cells` along each side, each cell the largest weight in it."""
    size = weights.shape[-1]
    step = -(-size // cells)
    if step == 1:
        return weights
    padded = np.pad(weights, [(0, 0)] * (weights.ndim - 2) + [(0, -size % step)] * 2)
    count = padded.shape[-1] // step
    pooled: Array = padded.reshape(*weights.shape[:-2], count, step, count, step).max((-3, -1))
    return pooled


def attention_mosaic(maps: Array) -> go.Figure:
    """Return all heads of a layer as small maps in one figure. `maps` [heads, T, T]."""
    small = np.round(pool(maps, TILE), 3)
    heads, side = small.shape[0], small.shape[-1]
    columns = min(3, heads)
    rows, gap = -(-heads // columns), max(2, side // 8)
    step = side + gap
    z = np.full((rows * step, columns * step), np.nan)
    figure = go.Figure()
    lower = np.tri(side, dtype=bool)
    for head in range(heads):
        top, left = (head // columns) * step + gap, (head % columns) * step
        z[top : top + side, left : left + side] = np.where(lower, small[head], np.nan)
        figure.add_annotation(
            x=left - 0.5, y=top - gap / 2 - 0.5, text=f"head {head}", showarrow=False, xanchor="left", font={"size": 11}
        )
    figure.add_heatmap(z=z, colorscale=SHADES, zmin=0, zmax=1, showscale=False, hoverinfo="skip")
    figure.update_layout(
        height=rows * 480 // columns,
        margin=MARGIN,
        xaxis={"visible": False, "range": [-1, columns * step]},
        yaxis={
            "visible": False,
            "autorange": "reversed",
            "scaleanchor": "x",
            "constrain": "domain",
            "constraintoward": "top",
        },
    )
    return figure


def lens_map(
    texts: Sequence[Sequence[str]], values: Array, labels: Sequence[str], *, first: int, percent: bool, title: str
) -> go.Figure:
    """Return the logit lens: depths upwards, tokens to the right, in each cell the predicted token.

    `texts` and `values` [depths, columns]; `labels` name the columns, whose first is token `first` of the text.
    """
    depths = ["embedding", *(f"layer {depth}" for depth in range(len(texts) - 1))]
    names = [f"{first + place} {figure_token(text)}" for place, text in enumerate(labels)]
    shown = np.round(100 * values, 2) if percent else np.round(values, 3)
    figure = go.Figure()
    figure.add_heatmap(
        z=shown,
        x=names,
        y=depths,
        text=[[figure_token(text, 9) for text in row] for row in texts],
        texttemplate="%{text}",
        textfont={"size": 11},
        colorscale=EVEN_SHADES if percent else SHADES,
        zmin=0,
        zmax=100 if percent else max(float(np.nanmax(values)), 1e-6),
        xgap=1,
        ygap=1,
        colorbar={"title": {"text": title, "side": "right"}, "thickness": 10},
        hovertemplate=f"%{{y}}, after %{{x}}: %{{text}} (%{{z}}{' %' if percent else ' nats'})<extra></extra>",
    )
    figure.update_layout(
        height=130 + 24 * len(depths),
        margin=MARGIN,
        xaxis={"title": "After the token", "type": "category", "tickangle": -60, "automargin": True},
        yaxis={"type": "category", "automargin": True, "title": None, "showgrid": False},
    )
    return figure


def lens_lines(kl: Array, agree: Array) -> go.Figure:
    """Return the mean KL of each layer to the final distribution (left) and the share of equal top tokens (right)."""
    depths = list(range(len(kl)))
    figure = go.Figure()
    figure.add_scatter(
        x=depths, y=kl, name="KL to the final distribution, nats", line={"color": ACCENT}, mode="lines+markers"
    )
    figure.add_scatter(
        x=depths, y=100 * agree, name="same top token, %", line={"color": BLUE}, mode="lines+markers", yaxis="y2"
    )
    figure.update_layout(
        height=260,
        margin=MARGIN,
        xaxis={"title": "Layer", "dtick": 1 if len(depths) < 24 else None},
        yaxis={"title": "nats", "rangemode": "tozero"},
        yaxis2={"title": "%", "overlaying": "y", "side": "right", "range": [0, 103], "showgrid": False, "dtick": 25},
        legend={"orientation": "h", "y": 1.15, "x": 0},
    )
    return figure


def by_layer(series: Mapping[str, Sequence[tuple[int, float]]], *, title: str, percent: bool = False) -> go.Figure:
    """Return a line over the layers for each weight, as (layer, value)."""
    figure = go.Figure()
    for place, (part, points) in enumerate(series.items()):
        figure.add_scatter(
            x=[layer for layer, _ in points],
            y=[100 * value if percent else value for _, value in points],
            name=figure_text(part),
            mode="lines+markers",
            line={"color": COLORS[place % len(COLORS)], "width": 1.6},
            marker={"size": 5},
        )
    figure.update_layout(
        height=360,
        margin=MARGIN,
        xaxis={"title": "Layer", "dtick": 1 if max((len(p) for p in series.values()), default=0) < 16 else None},
        yaxis={"title": title, "rangemode": "tozero"},
        legend={"orientation": "h", "y": -0.25, "x": 0, "yanchor": "top"},
    )
    return figure


def weight_histograms(counts: Array, names: Sequence[str], edges: Array) -> go.Figure:
    """Return histograms of several tensors, one row each: shares of values in RMS. `counts` [tensors, bins]."""
    shares = counts / np.maximum(1, counts.sum(-1, keepdims=True)) * 100
    figure = go.Figure()
    figure.add_heatmap(
        z=np.round(shares, 3),
        x=np.round((edges[1:] + edges[:-1]) / 2, 2),
        y=[figure_text(name) for name in names],
        colorscale=SHADES,
        colorbar={"title": {"text": "% of values", "side": "right"}, "thickness": 10},
        hovertemplate="%{y}: %{z} % near %{x} RMS<extra></extra>",
    )
    figure.update_layout(
        height=max(160, 80 + 20 * len(names)),
        margin=MARGIN,
        xaxis={"title": "Value, in RMS of its tensor"},
        yaxis={"type": "category", "automargin": True, "title": None, "showgrid": False},
    )
    return figure


def weight_histogram(counts: Array, edges: Array, *, rms: float) -> go.Figure:
    """Return one tensor's histogram; its outermost bins hold everything beyond."""
    centres = (edges[1:] + edges[:-1]) / 2 * rms
    figure = go.Figure()
    figure.add_bar(
        x=centres, y=counts, marker_color=ACCENT, hovertemplate="near %{x:.3g}: %{y:,} values<extra></extra>"
    )
    figure.update_layout(height=260, margin=MARGIN, bargap=0, xaxis={"title": "Value"}, yaxis={"title": "Values"})
    return figure


def divergence_lines(series: Mapping[str, Array], labels: Sequence[str]) -> go.Figure:
    """Return a line for each divergence over the tokens of the text."""
    names = numbered(labels)
    figure = go.Figure()
    for place, (name, values) in enumerate(series.items()):
        figure.add_scatter(
            x=names,
            y=np.round(values, 5),
            name=figure_text(name),
            mode="lines",
            line={"color": COLORS[place % len(COLORS)], "width": 1.6},
        )
    figure.update_layout(
        height=280,
        margin=MARGIN,
        xaxis={"title": "After the token", "type": "category", "tickangle": -60, "automargin": True},
        yaxis={"title": "KL, nats", "rangemode": "tozero"},
        legend={"orientation": "h", "y": 1.12, "x": 0},
    )
    return figure
