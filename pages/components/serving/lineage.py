"""A lineage as graph and list; every object leads to its page. The figure is pure, from plain data: objects in layers,
with their sources below.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date
from urllib.parse import urlencode

import plotly.graph_objects as go
import streamlit as st

from backend.domain.evaluation.score_text import interval_text, score_label, score_text
from backend.services.context import Context
from backend.services.evaluation.evaluations import get_evaluations
from backend.services.lineage import Lineage, LineageEdge, LineageNode
from pages.components import routes
from pages.components.charts.style import ACCENT, COLORS, MUTED, NEUTRAL, WHITE
from pages.components.downloads import draw_download
from pages.components.frame import draw_plot, plain
from pages.components.links import row_link
from pages.components.tables import WidgetTable
from pages.components.words import figure_text

PLACES: dict[str, tuple[str, str, str]] = {
    "endpoint": (routes.ENDPOINTS, "name", "dns"),
    "alias": (routes.ENDPOINTS, "name", "label"),
    "promotion": (routes.BATTLES, "campaign", "military_tech"),
    "campaign": (routes.BATTLES, "campaign", "swords"),
    "checkpoint": (routes.CHECKPOINTS, "checkpoint", "deployed_code"),
    "evaluation": (routes.EVALUATIONS, "evaluation", "grading"),
    "gate": (routes.EVALUATIONS, "gate", "rule"),
    "run": (routes.RUN, "run", "monitoring"),
    "dataset": (routes.DATASETS, "dataset", "database"),
    "architecture": (routes.ARCHITECTURES, "architecture", "schema"),
    "tokenizer": (routes.TOKENIZERS, "tokenizer", "match_word"),
}
TABLE = WidgetTable("lineage_list", {"Object": 2.4, "Facts": 2.6, "Inputs": 2.6})
HIDE_GRAPH_BELOW = "48rem"


def page_of(node: LineageNode) -> tuple[str, dict[str, str]] | None:
    """Return a node's page and query, None if it has none."""
    if node.kind not in PLACES or node.refers_to is None:
        return None
    page, parameter, _ = PLACES[node.kind]
    if node.kind == "dataset":
        dataset, _, number = node.refers_to.rpartition("@")
        return page, {"dataset": dataset, "version": number}
    return page, {parameter: node.refers_to}


def draw_lineage(ctx: Context, lineage: Lineage) -> None:
    """Draw the graph where it has room, the list, what is missing, and the export."""
    scores = _scores(ctx, lineage)
    for gap in lineage.gaps:
        st.caption(f":material/info: {plain(gap)}")
    with st.container(key="lineage-graph"):
        st.html(f"<style>@media (max-width:{HIDE_GRAPH_BELOW}){{.st-key-lineage-graph{{display:none}}}}</style>")
        links = {
            node.id: f"{routes.address(page[0])}?{urlencode(page[1])}"
            for node in lineage.nodes
            if (page := page_of(node))
        }
        draw_plot(
            lineage_figure(lineage, links=links, scores=scores),
            key="lineage_chart",
            alt=f"Lineage of {lineage.title}; the table below lists the same objects",
        )
    _draw_list(lineage, scores)
    text = json.dumps(lineage.to_document(), indent=2, ensure_ascii=False)
    draw_download("Lineage as JSON", text, "lineage.json", key="lineage_json")


def _draw_list(lineage: Lineage, scores: Mapping[str, str]) -> None:
    names = {node.id: f"{node.kind} {node.name}" for node in lineage.nodes}
    with TABLE.frame():
        for number, node in enumerate(lineage.nodes):
            columns = TABLE.row(str(number))
            page = page_of(node)
            with columns[0]:
                if page is None:
                    st.markdown(f":small[:material/description: {node.kind} {plain(node.name)}]")
                else:
                    row_link(
                        f"{node.kind} {node.name}",
                        page=page[0],
                        query=page[1],
                        icon=PLACES[node.kind][2],
                        key=f"lineage_{number}",
                    )
            facts = [
                *(f"{label.lower()} {_dated(value)}" for label, value in node.facts),
                *filter(None, [scores.get(node.id)]),
            ]
            columns[1].caption(plain(", ".join(facts)) or "–")
            sources = [
                f"{edge.label} {names[edge.source]}"
                for edge in lineage.edges
                if edge.made == node.id and edge.source in names
            ]
            columns[2].caption(plain("; ".join(sources)) or "–")


def _scores(ctx: Context, lineage: Lineage) -> dict[str, str]:
    """Return the main score of each evaluation with its interval, by its node."""
    nodes = {node.refers_to: node.id for node in lineage.nodes if node.kind == "evaluation" and node.refers_to}
    texts = {}
    for one in get_evaluations(ctx, list(nodes)):
        if (score := one.main_score) is not None:
            interval = interval_text(score.metric, score.low, score.high)
            value = score_text(score.metric, score.value) + (f" ({interval})" if interval else "")
            texts[nodes[one.id]] = f"{score_label(score.metric).lower()} {value}"
    return texts


def _dated(value: str) -> str:
    """Return a fact as it is, a date as the visitor reads dates."""
    try:
        return f"{date.fromisoformat(value):%-d %b %Y}"
    except ValueError:
        return value


KIND_COLORS = {
    "endpoint": ACCENT,
    "alias": COLORS[6],
    "promotion": COLORS[6],
    "campaign": COLORS[3],
    "checkpoint": COLORS[1],
    "run": COLORS[7],
    "dataset": COLORS[2],
    "evaluation": COLORS[5],
    "gate": COLORS[5],
}
LAYER_HEIGHT, BOX_WIDTH, MAX_IN_LAYER, MAX_LABEL = 78, 190, 5, 22


def layer_of(root: str, edges: Sequence[LineageEdge]) -> dict[str, int]:
    """Return the layer of every node that the root reaches: one below the lowest node that was made of it. An edge that
    would close a circle is ignored.
    """
    sources: dict[str, list[str]] = defaultdict(list)
    for edge in edges:
        sources[edge.made].append(edge.source)
    order: list[str] = []
    forward: list[tuple[str, str]] = []
    state: dict[str, int] = {root: 1}
    stack = [(root, iter(sources[root]))]
    while stack:
        node, rest = stack[-1]
        source = next(rest, None)
        if source is None:
            state[node] = 2
            order.append(node)
            stack.pop()
        elif state.get(source) != 1:
            forward.append((node, source))
            if source not in state:
                state[source] = 1
                stack.append((source, iter(sources[source])))
    layers = dict.fromkeys(order, 0)
    for node in reversed(order):
        for made, source in forward:
            if made == node:
                layers[source] = max(layers[source], layers[node] + 1)
    return layers


def arrange(root: str, edges: Sequence[LineageEdge]) -> dict[str, tuple[float, int]]:
    """Return each node's place (x in boxes from the middle, layer). A layer's nodes stand below what was made of them;
    of a full layer those that rest on nothing move down.
    """
    layers = layer_of(root, edges)
    made_of = {edge.made for edge in edges}
    rows: dict[int, list[str]] = defaultdict(list)
    for node, layer in layers.items():
        rows[layer].append(node)
    places: dict[str, tuple[float, int]] = {}
    layer = 0
    while layer <= max(rows):
        row = sorted(rows[layer], key=lambda node: (_barycentre(node, edges, places), node))
        while len(row) > MAX_IN_LAYER and (movable := [node for node in row if node not in made_of]):
            row.remove(movable[-1])
            rows[layer + 1].append(movable[-1])
        for index, node in enumerate(row):
            places[node] = (index - (len(row) - 1) / 2, layer)
        layer += 1
    return places


def _barycentre(node: str, edges: Sequence[LineageEdge], places: Mapping[str, tuple[float, int]]) -> float:
    above = [places[edge.made][0] for edge in edges if edge.source == node and edge.made in places]
    return sum(above) / len(above) if above else 0.0


def lineage_figure(lineage: Lineage, *, links: Mapping[str, str], scores: Mapping[str, str]) -> go.Figure:
    """Return the graph. `links` maps a node's id to the address of its page, `scores` to what an evaluation measured:
    the score stands in its box, the interval in the text that appears over it.
    """
    places = arrange(lineage.root, lineage.edges)
    lines_x: list[float | None] = []
    lines_y: list[float | None] = []
    for edge in lineage.edges:
        if edge.made in places and edge.source in places:
            (x0, y0), (x1, y1) = places[edge.made], places[edge.source]
            lines_x += [x0, x1, None]
            lines_y += [-y0, -y1, None]
    figure = go.Figure(
        go.Scatter(
            x=lines_x, y=lines_y, mode="lines", line={"color": MUTED, "width": 1.4}, hoverinfo="skip", showlegend=False
        )
    )
    for node in lineage.nodes:
        if node.id not in places:
            continue
        x, layer = places[node.id]
        name = figure_text(
            node.name if len(node.name) <= MAX_LABEL else f"{node.name[: MAX_LABEL - 9]}…{node.name[-8:]}"
        )
        score = scores.get(node.id, "")
        text = f"{node.kind}<br><b>{name}</b>"
        if score:
            text = f"{figure_text(score.partition(' (')[0])}<br><b>{name}</b>"
        hover = [*(f"{label}: {value[:90]}" for label, value in node.facts), *filter(None, [score])]
        link = links.get(node.id)
        figure.add_annotation(
            x=x,
            y=-layer,
            text=f'<a href="{link}" target="_self" style="color:{WHITE}">{text}</a>' if link else text,
            showarrow=False,
            font={"color": WHITE, "size": 12},
            bgcolor=KIND_COLORS.get(node.kind, NEUTRAL),
            borderpad=6,
            width=BOX_WIDTH - 40,
            hovertext="<br>".join(map(figure_text, hover)) or None,
        )
    depth = max((layer for _, layer in places.values()), default=0)
    half = max((abs(x) for x, _ in places.values()), default=0.0) + 0.6
    figure.update_layout(
        height=LAYER_HEIGHT * (depth + 1) + 20,
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        xaxis={"visible": False, "range": [-max(half, 2.2), max(half, 2.2)], "fixedrange": True},
        yaxis={"visible": False, "range": [-depth - 0.5, 0.5], "fixedrange": True},
        dragmode=False,
    )
    return figure
