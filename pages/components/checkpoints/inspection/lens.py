"""A reading's logit lens: what each layer would already predict."""

from __future__ import annotations

import streamlit as st

from backend.services.checkpoints.inspection_results import ReadingContents
from pages.components.charts.style import STATIC
from pages.components.checkpoints.inspection.charts import lens_lines, lens_map
from pages.components.frame import plain

COLUMNS = 24
COLOURS = {"p": "Probability of the first choice", "kl": "KL to the final distribution"}


def draw_lens(contents: ReadingContents) -> None:
    """Draw the logit lens tab."""
    facts = contents.reading.result["lens"]
    if not facts["depths"]:
        st.info(plain(facts["reason"]), icon=":material/visibility_off:")
        return
    st.caption(
        "Each layer's output is put straight through the network's own final norm and output head: what would be predicted if the network ended there. "
        "In a cell stands the first choice after the token below it; the topmost row is the network's answer."
    )
    ids, probability, kl = (contents.array(f"lens_{name}") for name in ("ids", "p", "kl"))
    total = ids.shape[1]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        colour = st.segmented_control(
            "Colour",
            list(COLOURS),
            default="p",
            required=True,
            format_func=lambda k: COLOURS[k],
            key="lens_colour",
            label_visibility="collapsed",
        )
        first = 0
        if total > COLUMNS:
            first = int(st.slider("From token", 0, total - COLUMNS, 0, key=f"lens_first_{contents.reading.id}", width=320))
    shown = slice(first, first + COLUMNS)
    texts = [[contents.label(token) for token in row] for row in ids[:, shown]]
    values = probability if colour == "p" else kl
    st.plotly_chart(
        lens_map(
            texts,
            values[:, shown],
            contents.labels[shown],
            first=first,
            percent=colour == "p",
            title="probability, %" if colour == "p" else "nats",
        ),
        key="lens_map",
        config=STATIC,
        alt="The token that each layer would predict after each token of the text",
    )
    st.subheader("How early it knows", anchor=False)
    st.caption("Means over the whole text.")
    st.plotly_chart(
        lens_lines(kl[1:].mean(-1), (ids == ids[-1]).mean(-1)[1:]),
        key="lens_lines",
        config=STATIC,
        alt="Distance to the final distribution by layer",
    )
    st.caption(f"Check: the last row's logits differ from the network's own by at most {facts['error']:.1e}.")
