"""Diagram of one block of a network. Pure: a config in, a Plotly figure out."""

from __future__ import annotations

from dataclasses import dataclass

import plotly.graph_objects as go

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.families import FAMILIES
from backend.domain.wording import short
from pages.components.charts.style import COLORS, MUTED

EMBEDDING, ATTENTION, FEED_FORWARD, NORM, HEAD = COLORS[:5]
EXPERTS = COLORS[5]
BOX_HEIGHT, GAP = 0.78, 0.34


@dataclass(frozen=True)
class Box:
    """A step of a block. `adds` marks the end of a residual connection that starts `since` boxes before."""

    title: str
    detail: str
    color: str
    adds: bool = False
    since: int = 0


def block_boxes(config: ArchitectureConfig) -> list[Box]:
    """Return the steps of one block, first to last."""
    family = FAMILIES[config.family]
    norm = family.norm.split(" ")[0].rstrip(",")
    twice = config.family == "gemma3"
    before, after = Box(norm, f"{config.width}", NORM), Box(norm, f"{config.width}", NORM, adds=True, since=2)
    attention = _attention(config)
    work = _feed_forward(config)
    boxes = [before, Box(*attention, adds=not twice, since=1)]
    boxes += [after] if twice else []
    boxes += [before, Box(*work, adds=not twice, since=1)]
    return boxes + ([after] if twice else [])


def _attention(config: ArchitectureConfig) -> tuple[str, str, str]:
    family, heads, groups = FAMILIES[config.family], config.num_heads, config.num_kv_heads
    if family.latent:
        queries = f"queries through {config.query_rank}" if config.query_rank else "queries uncompressed"
        return "Latent attention", f"{heads} heads of {config.head_dim}; {queries}, keys and values through {config.kv_rank}", ATTENTION
    if groups == heads:
        kind = f"{heads} heads of {config.head_dim}, keys and values each"
    else:
        kind = f"{heads} heads of {config.head_dim} on {groups} with keys and values"
    extras = {
        "qwen3": "queries and keys normed",
        "qwen3_moe": "queries and keys normed",
        "gemma3": "queries and keys normed",
        "bloom": "ALiBi",
    }
    return "Attention", "; ".join(part for part in (kind, extras.get(config.family, "")) if part), ATTENTION


def _feed_forward(config: ArchitectureConfig) -> tuple[str, str, str]:
    family = FAMILIES[config.family]
    kind = family.feed_forward.split(" ")[0]
    if config.num_experts is None:
        return "Feed-forward", f"{kind}, {config.width} → {config.feed_forward} → {config.width}", FEED_FORWARD
    shared = f", {config.shared_experts} always" if config.shared_experts else ""
    return (
        "Experts",
        f"a router picks {config.experts_per_token} of {config.num_experts}{shared}; {kind}, {config.width} → {config.expert_size}",
        EXPERTS,
    )


def layer_kinds(config: ArchitectureConfig) -> list[str]:
    """Return a description of each layer; equal ones are equal layers."""
    kinds = []
    for layer in range(config.num_layers):
        parts = []
        if config.window is not None:
            parts.append("sees everything" if config.is_global(layer) else f"sees {config.window:,} tokens")
        if config.nope_every is not None:
            parts.append("no positions" if (layer + 1) % config.nope_every == 0 else "RoPE")
        if config.num_experts is not None and config.dense_layers:
            parts.append("experts" if config.has_experts(layer) else "one feed-forward")
        kinds.append(", ".join(parts))
    return kinds


def block_diagram(config: ArchitectureConfig) -> go.Figure:
    """Return the network from tokens to logits, with one block in detail."""
    family = FAMILIES[config.family]
    positions = {"gpt2": f", {config.context:,} learned positions added", "bloom": ", normed"}.get(config.family, "")
    head = "tied to the embedding" if config.tie_embeddings else "untied"
    inside = block_boxes(config)
    boxes = [
        Box("Embedding", f"{config.vocab_size:,} tokens → {config.width}{positions}", EMBEDDING),
        *inside,
        Box(family.norm.split(" ")[0].rstrip(","), f"{config.width}", NORM),
        Box("Output head", f"{config.width} → {config.vocab_size:,}, {head}", HEAD),
    ]
    figure = go.Figure()
    tops = _draw_boxes(figure, boxes, inside=len(inside))
    first, last = tops[1], tops[len(inside)]
    figure.add_shape(
        type="rect",
        x0=-0.07,
        x1=1.07,
        y0=first + BOX_HEIGHT / 2 + GAP / 2,
        y1=last - BOX_HEIGHT / 2 - GAP / 2,
        line={"color": MUTED, "dash": "dot", "width": 1.5},
        layer="below",
    )
    figure.add_annotation(
        x=1.09, y=(first + last) / 2, text=f"<b>× {config.num_layers}</b>", showarrow=False, xanchor="left", font={"size": 15}
    )
    figure.update_layout(
        height=int(46 * len(boxes) + 20),
        margin={"l": 0, "r": 0, "t": 4, "b": 4},
        showlegend=False,
        hovermode=False,
        dragmode=False,
        xaxis={"visible": False, "range": [-0.08, 1.17], "fixedrange": True},
        yaxis={"visible": False, "range": [tops[-1] - 0.7, tops[0] + 0.7], "fixedrange": True},
    )
    return figure


def _draw_boxes(figure: go.Figure, boxes: list[Box], *, inside: int) -> list[float]:
    """Draw boxes from top to bottom with the residuals beside them; return their centres."""
    tops: list[float] = []
    height = 0.0
    for index, box in enumerate(boxes):
        if index in (1, 1 + inside):  # room for the border of the block
            height -= GAP
        tops.append(height)
        y0, y1 = height - BOX_HEIGHT / 2, height + BOX_HEIGHT / 2
        figure.add_shape(type="rect", x0=0, x1=1, y0=y0, y1=y1, line={"color": box.color, "width": 1.5}, fillcolor=box.color, opacity=0.16)
        figure.add_annotation(x=0.02, y=height, text=f"<b>{box.title}</b>", showarrow=False, xanchor="left", font={"size": 13})
        figure.add_annotation(
            x=0.98, y=height, text=_two_lines(box.detail), showarrow=False, xanchor="right", align="right", font={"size": 11}
        )
        if index + 1 < len(boxes):
            figure.add_shape(type="line", x0=0.5, x1=0.5, y0=y0, y1=y0 - GAP, line={"color": MUTED, "width": 1.2}, layer="below")
        if box.adds:
            start = tops[index - box.since] + BOX_HEIGHT / 2 + GAP / 3
            end = y0 - GAP / 3
            path = f"M 0.5,{start} L -0.035,{start} L -0.035,{end} L 0.5,{end}"
            figure.add_shape(type="path", path=path, line={"color": MUTED, "width": 1.2}, layer="below")
            figure.add_annotation(x=0.5, y=end, text="⊕", showarrow=False, font={"size": 14})
        height -= BOX_HEIGHT + GAP
    return tops


def _two_lines(text: str, limit: int = 44) -> str:
    """Break a long detail between its parts."""
    if len(text) <= limit:
        return text
    middle = len(text) / 2
    breaks = [at for at, sign in enumerate(text) if sign in ";," and text[at + 1 : at + 2] == " "]
    at = min(breaks, key=lambda place: abs(place - middle), default=None)
    return text if at is None else f"{text[: at + 1]}<br>{text[at + 2 :]}"


def layers_strip(config: ArchitectureConfig) -> go.Figure | None:
    """Return the layers side by side, coloured by kind; None where all are alike."""
    kinds = layer_kinds(config)
    names = list(dict.fromkeys(kinds))
    if len(names) < 2:
        return None
    figure = go.Figure()
    for name, color in zip(names, (ATTENTION, EMBEDDING, EXPERTS, HEAD), strict=False):
        layers = [index + 1 for index, kind in enumerate(kinds) if kind == name]
        figure.add_bar(
            x=layers,
            y=[1] * len(layers),
            marker_color=color,
            name=name,
            width=0.82,
            hovertemplate=f"layer %{{x}}: {name}<extra></extra>",
        )
    figure.update_layout(
        height=104,
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        barmode="stack",
        showlegend=True,
        legend={"orientation": "h", "y": -0.75, "x": 0},
        yaxis={"visible": False, "fixedrange": True},
        xaxis={"tickmode": "array", "tickvals": [1, config.num_layers], "fixedrange": True, "range": [0.4, config.num_layers + 0.6]},
    )
    return figure


def diagram_words(config: ArchitectureConfig) -> str:
    """Return the diagram as alternative text."""
    steps = "; ".join(f"{box.title} ({box.detail})" for box in block_boxes(config))
    return f"{config.num_layers} blocks, each: {steps}. {short(config.vocab_size)} tokens."
