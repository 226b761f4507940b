"""Compare two checkpoints on one text: divergence of their next-token distributions, or bits per byte if their
vocabularies differ.
"""

from __future__ import annotations

import numpy as np
import streamlit as st

from backend.domain.wording import percent
from backend.services.checkpoints.checkpoints import CheckpointView
from backend.services.checkpoints.inspections import InspectionResults, InspectionView
from backend.services.context import Context, Person
from pages.components.browser.token_strip.component import token_strip
from pages.components.checkpoints.inspection.charts import divergence_lines
from pages.components.checkpoints.inspection.text import draw_alternatives
from pages.components.checkpoints.inspection.weights import draw_weight_changes
from pages.components.frame import draw_metric, draw_plot, plain


def draw_pair(ctx: Context, person: Person, checkpoint: CheckpointView, inspection: InspectionView | None) -> None:
    """Draw the compare tab."""
    if inspection is None or inspection.other is None:
        st.info("Choose a checkpoint under “Compare with” above and press Analyze.", icon=":material/compare:")
        return
    if inspection.is_ready:
        results = InspectionResults(ctx, inspection)
        if inspection.result["pair"]["same_vocabulary"]:
            _draw_divergence(results)
        else:
            _draw_bytes(results)
    if inspection.other_id is not None:
        st.subheader("Weights", anchor=False)
        draw_weight_changes(ctx, person, checkpoint, inspection.other_id, inspection.other)


def _draw_divergence(results: InspectionResults) -> None:
    inspection, pair = results.inspection, results.inspection.result["pair"]
    first, other = plain(inspection.checkpoint), plain(str(inspection.other))
    grid = st.grid(4, min_column_width=170)
    draw_metric(grid, "Same top token", percent(pair["agreement"]), help="Share of the positions in the text.")
    help_ = f"Mean KL divergence in nats: p is {first}, q is {other}."
    draw_metric(grid, "KL(p‖q), nats", _nats(pair["mean_kl_pq"]), help=help_)
    draw_metric(grid, "KL(q‖p), nats", _nats(pair["mean_kl_qp"]), help=help_)
    losses = f"{inspection.result['loss']['mean_nats']:.3f} / {pair['other_loss']['mean_nats']:.3f}"
    draw_metric(grid, "Loss, p / q", losses, help="Nats per token.")
    if pair["shared_rows"]:
        st.caption(f"One vocabulary is padded; the {pair['shared_rows']:,} rows of the smaller one are compared.")
    kl_pq, kl_qp, agree = (results.array(name) for name in ("kl_pq", "kl_qp", "agree"))
    parted = np.nan_to_num(np.maximum(kl_pq, kl_qp), posinf=99.0)
    full = max(float(np.quantile(parted, 0.95)), 1e-9)
    st.caption("Colour shows the divergence at a token. Click one to see both predictions.")
    place = int(parted[:-1].argmax()) + 1
    key = f"pair_{inspection.id}"
    picked = token_strip(
        results.labels,
        values=[None, *(float(value / full) for value in parted[:-1])],
        titles=["", *(f"{value:.4f} nats" for value in parted[:-1])],
        selected=place,
        key=key,
    )
    place = max(1, place if picked is None else picked)
    ids = results.ids
    same = "same top token" if agree[place - 1] else "different top tokens"
    st.caption(
        f"Token {place}: KL(p‖q) {kl_pq[place - 1]:.4f} nats, KL(q‖p) {kl_qp[place - 1]:.4f} nats, {same}. The actual"
        " token is in colour."
    )
    left, right = st.columns(2, gap="large")
    for column, name, prefix in ((left, first, ""), (right, other, "other_")):
        with column:
            st.markdown(f"**{name}**")
            draw_alternatives(
                results.alternatives(prefix=prefix)[place - 1], key=f"pair_expected_{prefix}", actual=ids[place]
            )
    draw_plot(
        divergence_lines({"KL(p‖q)": kl_pq, "KL(q‖p)": kl_qp}, results.labels),
        key="pair_lines",
        alt="Divergence after each token",
    )


def _draw_bytes(results: InspectionResults) -> None:
    inspection, pair = results.inspection, results.inspection.result["pair"]
    first, other = plain(inspection.checkpoint), plain(str(inspection.other))
    st.info(
        f"Tokens can't be matched ({plain(pair['reason'])}), so bits per byte are compared.",
        icon=":material/rule:",
    )
    left, right = st.columns(2)
    for column, name, loss in ((left, first, pair["first"]), (right, other, pair["other"])):
        draw_metric(
            column,
            name,
            f"{loss['bits_per_byte']:.3f} bits",
            help=f"Per byte, over the {pair['bytes']:,} bytes that both score.",
        )
    a, b = results.array("span_first"), results.array("span_other")
    sizes = np.array([max(1, len(span.encode())) for span in results.spans])
    apart = (a - b) / np.log(2) / sizes
    full = max(float(np.quantile(np.abs(apart), 0.95)), 1e-9)
    st.caption(
        f"Pieces of text between common token boundaries. Warm: lower loss for {other}. Cool: lower loss for {first}."
    )
    titles = [f"{x / np.log(2):.2f} bits / {y / np.log(2):.2f} bits" for x, y in zip(a, b, strict=True)]
    token_strip(
        results.spans,
        values=[float(value / full) for value in apart],
        titles=titles,
        clickable=False,
        key=f"spans_{inspection.id}",
    )


def _nats(value: float | None) -> str:
    return "∞" if value is None else f"{value:.4f}"
