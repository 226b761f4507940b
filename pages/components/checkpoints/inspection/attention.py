"""A reading's attention: what all heads do, the heads of a layer, one head's map, and where one token looks."""

from __future__ import annotations

import numpy as np
import streamlit as st

from backend.services.checkpoints.inspection_results import ReadingContents
from pages.components.browser.token_strip.component import token_strip
from pages.components.charts.style import STATIC
from pages.components.checkpoints.inspection.charts import attention_map, attention_mosaic, head_overview, share_text
from pages.components.frame import plain

MEASURES: dict[str, tuple[str, str, bool]] = {
    "distance": ("Mean distance", "tokens back", False),
    "entropy": ("Entropy", "nats", False),
    "first": ("On the first token", "% of attention", True),
    "previous": ("On the token before", "% of attention", True),
    "self_share": ("On itself", "% of attention", True),
}
MEANING = {
    "distance": "How far back a head looks, on average.",
    "entropy": "0 for a head that looks at a single token; the more, the wider it looks.",
    "first": "Much attention on the first token usually means that a head has nothing to do here.",
    "previous": "Heads near 100% copy from the token before.",
    "self_share": "How much of its attention a token keeps for itself.",
}


def draw_attention(contents: ReadingContents) -> None:
    """Draw the attention tab."""
    facts = contents.reading.result["attention"]
    if not facts["layers"]:
        st.info(plain(facts["reason"]), icon=":material/visibility_off:")
        return
    if facts["row_error"] > 1e-3:
        st.caption("In this family a query's weights need not add up to 1: a part of its attention may go to no token.")
    _draw_overview(contents)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        layer = st.selectbox("Layer", range(facts["layers"]), key=f"layer_{contents.reading.id}", width=140)
        head = st.selectbox("Head", range(facts["heads"][layer]), key=f"head_{contents.reading.id}_{facts['heads'][layer]}", width=140)
    maps = contents.attention(layer)
    labels = contents.labels[: facts["tokens"]]
    if len(labels) < len(contents.labels):
        st.caption(f"Of this many heads, the maps of the first {len(labels)} tokens are kept. They are exact: no token sees a later one.")
    one, many = st.columns([1.25, 1], gap="large")
    with one:
        st.subheader(f"Layer {layer}, head {head}", anchor=False)
        st.plotly_chart(
            attention_map(maps[head], labels), key="attention_map", config=STATIC, alt="Attention from each token to those before it"
        )
    with many:
        st.subheader(f"All heads of layer {layer}", anchor=False)
        st.plotly_chart(attention_mosaic(maps), key="attention_mosaic", config=STATIC, alt="The layer's heads as small maps")
    _draw_looks(contents, maps[head], labels)


def _draw_overview(contents: ReadingContents) -> None:
    st.subheader("All heads", anchor=False)
    measure = st.segmented_control(
        "Measure",
        list(MEASURES),
        default="distance",
        required=True,
        format_func=lambda k: MEASURES[k][0],
        key="attention_measure",
        label_visibility="collapsed",
    )
    st.caption(MEANING[measure])
    _, unit, percent = MEASURES[measure]
    st.plotly_chart(
        head_overview(contents.array(f"head_{measure}"), title=unit, percent=percent),
        key="attention_overview",
        config=STATIC,
        alt=f"{MEASURES[measure][0]} by layer and head",
    )


def _draw_looks(contents: ReadingContents, weights: np.ndarray, labels: list[str]) -> None:
    st.subheader("Where a token looks", anchor=False)
    key = f"looks_{contents.reading.id}"
    state = st.session_state.get(key) or {}
    chosen = state.get("picked")
    chosen = len(labels) - 1 if chosen is None else min(int(chosen), len(labels) - 1)
    row = weights[chosen]
    st.caption(f"From token {chosen}, in colour what it looks at. Click another one.")
    token_strip(
        labels,
        values=[float(np.sqrt(row[place])) if place <= chosen else None for place in range(len(labels))],
        titles=[share_text(float(row[place])) if place <= chosen else "later: not seen" for place in range(len(labels))],
        selected=chosen,
        key=key,
    )
