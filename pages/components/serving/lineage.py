"""A lineage as graph and list; every object leads to its page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from urllib.parse import urlencode

import streamlit as st

from backend.domain.evaluation.score_text import interval_text, score_label, score_text
from backend.services.context import Context
from backend.services.evaluation.evaluations import get_evaluations
from backend.services.lineage import Lineage, LineageNode
from pages.components import routes
from pages.components.downloads import draw_download
from pages.components.frame import draw_plot, plain
from pages.components.links import row_link
from pages.components.serving.lineage_figure import lineage_figure
from pages.components.tables import WidgetTable

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
