"""Logit lens of an inspection: the prediction after each layer."""

from __future__ import annotations

import streamlit as st

from backend.services.checkpoints.inspections import InspectionResults
from pages.components.checkpoints.inspection.charts import lens_lines, lens_map
from pages.components.choices import choose_one
from pages.components.frame import draw_plot, plain

COLUMNS = 24
COLOURS = {"p": "Probability of the top token", "kl": "KL to the final distribution"}


def draw_lens(results: InspectionResults) -> None:
    """Draw the logit lens tab."""
    facts = results.inspection.result["lens"]
    if not facts["depths"]:
        st.info(plain(facts["reason"]), icon=":material/visibility_off:")
        return
    st.caption(
        "Each layer's output goes through the final norm and output head. A cell shows the top token predicted after"
        " the token below it; the top row is the model's own prediction."
    )
    ids, probability, kl = (results.array(f"lens_{name}") for name in ("ids", "p", "kl"))
    total = ids.shape[1]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        colour = choose_one("Colour", COLOURS, default="p", key="lens_colour", is_bare=True)
        first = 0
        if total > COLUMNS:
            first = int(
                st.slider("From token", 0, total - COLUMNS, 0, key=f"lens_first_{results.inspection.id}", width=320)
            )
    shown = slice(first, first + COLUMNS)
    texts = [[results.label(token) for token in row] for row in ids[:, shown]]
    values = probability if colour == "p" else kl
    draw_plot(
        lens_map(
            texts,
            values[:, shown],
            results.labels[shown],
            first=first,
            percent=colour == "p",
            title="probability, %" if colour == "p" else "nats",
        ),
        key="lens_map",
        alt="Top token predicted by each layer after each token of the text",
    )
    st.subheader("Convergence by layer", anchor=False)
    st.caption("Mean over the text.")
    draw_plot(
        lens_lines(kl[1:].mean(-1), (ids == ids[-1]).mean(-1)[1:]),
        key="lens_lines",
        alt="KL to the final distribution by layer",
    )
    st.caption(f"Check: the top row's logits match the model's own within {facts['error']:.1e}.")
