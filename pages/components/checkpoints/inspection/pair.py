"""Two checkpoints on one text: where their next-token distributions part, or, of unlike vocabularies, what each byte costs."""

from __future__ import annotations

import numpy as np
import streamlit as st

from backend.services.checkpoints.checkpoints import CheckpointView
from backend.services.checkpoints.inspection_results import ReadingContents
from backend.services.checkpoints.inspections import ReadingView
from backend.services.context import Context, Person
from pages.components.browser.token_strip.component import token_strip
from pages.components.charts.style import STATIC
from pages.components.checkpoints.inspection.charts import divergence_lines
from pages.components.checkpoints.inspection.tokens import draw_alternatives
from pages.components.checkpoints.inspection.weights import draw_changes
from pages.components.frame import plain


def draw_pair(ctx: Context, person: Person, checkpoint: CheckpointView, reading: ReadingView | None) -> None:
    """Draw the compare tab."""
    if reading is None or reading.other is None:
        st.info("Choose a second checkpoint beside the text above, then read.", icon=":material/compare:")
        return
    if reading.is_ready:
        contents = ReadingContents(ctx, reading)
        if reading.result["pair"]["same_vocabulary"]:
            _draw_divergence(contents)
        else:
            _draw_bytes(contents)
    if reading.other_id is not None:
        st.subheader("Weights", anchor=False)
        draw_changes(ctx, person, checkpoint, reading.other_id, reading.other)


def _draw_divergence(contents: ReadingContents) -> None:
    reading, pair = contents.reading, contents.reading.result["pair"]
    first, other = plain(reading.checkpoint), plain(str(reading.other))
    grid = st.grid(4, min_column_width=170)
    grid.metric("Same first choice", f"{pair['agreement']:.0%}", border=True, height="stretch", help="Of the places in the text.")
    help_ = f"Mean KL divergence in nats: p is {first}, q is {other}."
    grid.metric("KL(p‖q), nats", _nats(pair["mean_kl_pq"]), border=True, height="stretch", help=help_)
    grid.metric("KL(q‖p), nats", _nats(pair["mean_kl_qp"]), border=True, height="stretch", help=help_)
    losses = f"{reading.result['loss']['mean_nats']:.3f} / {pair['other_loss']['mean_nats']:.3f}"
    grid.metric("Loss, p / q", losses, border=True, height="stretch", help="Nats per token.")
    if pair["shared_rows"]:
        st.caption(f"One network has padding rows behind its vocabulary; the {pair['shared_rows']:,} rows of the smaller one are compared.")
    kl_pq, kl_qp, agree = (contents.array(name) for name in ("kl_pq", "kl_qp", "agree"))
    parted = np.nan_to_num(np.maximum(kl_pq, kl_qp), posinf=99.0)
    full = max(float(np.quantile(parted, 0.95)), 1e-9)
    st.caption("The deeper a token's colour, the further the two were apart on what stands there. Click one to see what each expected.")
    place = int(parted[:-1].argmax()) + 1
    key = f"pair_{reading.id}"
    picked = token_strip(
        contents.labels,
        values=[None, *(float(value / full) for value in parted[:-1])],
        titles=["", *(f"{value:.4f} nats" for value in parted[:-1])],
        selected=place,
        key=key,
    )
    place = max(1, place if picked is None else picked)
    ids = contents.ids
    same = "the same first choice" if agree[place - 1] else "different first choices"
    st.caption(
        f"In place of token {place}: KL(p‖q) {kl_pq[place - 1]:.4f} nats, KL(q‖p) {kl_qp[place - 1]:.4f} nats; {same}. In colour what stood there."
    )
    left, right = st.columns(2, gap="large")
    for column, name, prefix in ((left, first, ""), (right, other, "other_")):
        with column:
            st.markdown(f"**{name}**")
            draw_alternatives(contents.alternatives(prefix=prefix)[place - 1], key=f"pair_expected_{prefix}", actual=ids[place])
    st.plotly_chart(
        divergence_lines({"KL(p‖q)": kl_pq, "KL(q‖p)": kl_qp}, contents.labels),
        key="pair_lines",
        config=STATIC,
        alt="Divergence after each token",
    )


def _draw_bytes(contents: ReadingContents) -> None:
    reading, pair = contents.reading, contents.reading.result["pair"]
    first, other = plain(reading.checkpoint), plain(str(reading.other))
    st.info(
        f"Their tokens can't be matched: {plain(pair['reason'])}. So the two are compared by what each byte of the text costs them.",
        icon=":material/rule:",
    )
    left, right = st.columns(2)
    for column, name, side in ((left, first, "first"), (right, other, "other")):
        column.metric(
            name, f"{pair[side]['bits_per_byte']:.3f} bits", border=True, help=f"For each of the {pair['bytes']:,} bytes that both score."
        )
    a, b = contents.array("span_first"), contents.array("span_other")
    sizes = np.array([max(1, len(span.encode())) for span in contents.spans])
    apart = (a - b) / np.log(2) / sizes
    full = max(float(np.quantile(np.abs(apart), 0.95)), 1e-9)
    st.caption(f"Pieces where both end a token. Warm: cheaper for {other}. Cool: cheaper for {first}.")
    titles = [f"{x / np.log(2):.2f} bits / {y / np.log(2):.2f} bits" for x, y in zip(a, b, strict=True)]
    token_strip(contents.spans, values=[float(value / full) for value in apart], titles=titles, clickable=False, key=f"spans_{reading.id}")


def _nats(value: float | None) -> str:
    return "∞" if value is None else f"{value:.4f}"
