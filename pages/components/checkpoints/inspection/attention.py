"""Attention of an inspection: all heads, the heads of a layer, one head's map, and the attention of one token."""

from __future__ import annotations

import numpy as np
import streamlit as st

from backend.services.checkpoints.inspections import InspectionResults
from pages.components.browser.token_strip.component import token_strip
from pages.components.checkpoints.inspection.charts import attention_map, attention_mosaic, head_overview, share_text
from pages.components.choices import choose_one
from pages.components.frame import draw_plot, plain

MEASURES: dict[str, tuple[str, str, bool]] = {
    "distance": ("Mean distance", "tokens back", False),
    "entropy": ("Entropy", "nats", False),
    "first": ("To the first token", "% of attention", True),
    "previous": ("To the previous token", "% of attention", True),
    "self_share": ("To itself", "% of attention", True),
}
MEANING = {
    "distance": "Mean distance to the attended token, weighted by attention.",
    "entropy": "0 if a head attends to one token; higher is more diffuse.",
    "first": "High for heads that are idle on this text (attention sinks).",
    "previous": "Near 100 % for previous-token heads.",
    "self_share": "Attention of a token to itself.",
}


def draw_attention(results: InspectionResults) -> None:
    """Draw the attention tab."""
    facts = results.inspection.result["attention"]
    if not facts["layers"]:
        st.info(plain(facts["reason"]), icon=":material/visibility_off:")
        return
    if facts["row_error"] > 1e-3:
        st.caption("In this family a query's weights may sum to less than 1 (attention to no token).")
    _draw_overview(results)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        layer = st.selectbox("Layer", range(facts["layers"]), key=f"layer_{results.inspection.id}", width=140)
        head = st.selectbox(
            "Head", range(facts["heads"][layer]), key=f"head_{results.inspection.id}_{facts['heads'][layer]}", width=140
        )
    maps = results.attention(layer)
    labels = results.labels[: facts["tokens"]]
    if len(labels) < len(results.labels):
        st.caption(
            f"With this many heads, maps of the first {len(labels)} tokens are stored. They are exact: attention is"
            " causal."
        )
    one, many = st.columns([1.25, 1], gap="large")
    with one:
        st.subheader(f"Layer {layer}, head {head}", anchor=False)
        draw_plot(
            attention_map(maps[head], labels), key="attention_map", alt="Attention from each token to those before it"
        )
    with many:
        st.subheader(f"All heads of layer {layer}", anchor=False)
        draw_plot(attention_mosaic(maps), key="attention_mosaic", alt="All heads of the layer as small maps")
    _draw_token_attention(results, maps[head], labels)


def _draw_overview(results: InspectionResults) -> None:
    st.subheader("All heads", anchor=False)
    measure = choose_one(
        "Measure",
        list(MEASURES),
        default="distance",
        format_func=lambda k: MEASURES[k][0],
        key="attention_measure",
        is_bare=True,
    )
    st.caption(MEANING[measure])
    _, unit, percent = MEASURES[measure]
    draw_plot(
        head_overview(results.array(f"head_{measure}"), title=unit, percent=percent),
        key="attention_overview",
        alt=f"{MEASURES[measure][0]} by layer and head",
    )


def _draw_token_attention(results: InspectionResults, weights: np.ndarray, labels: list[str]) -> None:
    st.subheader("Attention of one token", anchor=False)
    key = f"token_attention_{results.inspection.id}"
    state = st.session_state.get(key) or {}
    chosen = state.get("picked")
    chosen = len(labels) - 1 if chosen is None else min(int(chosen), len(labels) - 1)
    row = weights[chosen]
    st.caption(f"Attention from token {chosen}. Click another token.")
    token_strip(
        labels,
        values=[float(np.sqrt(row[place])) if place <= chosen else None for place in range(len(labels))],
        titles=[share_text(float(row[place])) if place <= chosen else "later token" for place in range(len(labels))],
        selected=chosen,
        key=key,
    )
