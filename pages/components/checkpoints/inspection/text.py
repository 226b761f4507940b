"""Text of an inspection: the loss of each token with its likeliest alternatives, attention, and the logit lens."""

from __future__ import annotations

import numpy as np
import streamlit as st

from backend.domain.checkpoints.inspection import LossSums
from backend.services.checkpoints.inspections import Alternative, InspectionResults, TokenLine
from pages.components.browser.token_strip.component import token_strip
from pages.components.checkpoints.inspection.charts import (
    alternatives_bar,
    attention_map,
    attention_mosaic,
    head_overview,
    lens_lines,
    lens_map,
    share_text,
)
from pages.components.choices import choose_one
from pages.components.frame import draw_metric, draw_plot, plain

FULL_BITS = 12.0


def draw_tokens_tab(results: InspectionResults) -> None:
    """Draw the tokens tab."""
    result = results.inspection.result
    _draw_loss(result["loss"])
    lines = results.tokens()
    st.caption(
        f"Colour shows surprisal, in full at {FULL_BITS:.0f} bits. Click a token or move with the arrow keys to see its"
        " alternatives."
    )
    likely = max((line for line in lines if line.bits is not None), key=lambda line: line.bits or 0.0)
    picked = token_strip(
        results.labels,
        values=[None if line.bits is None else line.bits / FULL_BITS for line in lines],
        titles=[_title(line) for line in lines],
        marks=["special" if line.special else "" for line in lines],
        selected=likely.position,
        key=f"strip_{results.inspection.id}",
    )
    left, right = st.columns(2, gap="large")
    with left:
        _draw_token(lines[likely.position if picked is None else picked], lines)
    with right:
        st.subheader("Next token", anchor=False)
        st.caption("Predicted after the end of the text.")
        draw_alternatives(results.alternatives()[-1], key=f"next_{results.inspection.id}")
    with st.expander("All tokens as a table", icon=":material/table:"):
        st.dataframe(
            [
                {
                    "Position": line.position,
                    "Token": line.text,
                    "Bits": line.bits,
                    "Nats": line.surprisal,
                    "Rank": line.rank,
                    "Likeliest": line.expected[0].text if line.expected else None,
                    "Probability of the likeliest": line.expected[0].probability if line.expected else None,
                }
                for line in lines
            ],
            hide_index=True,
            key=f"table_{results.inspection.id}",
            column_config={
                "Token": st.column_config.Column(pinned=True),
                "Probability of the likeliest": st.column_config.NumberColumn(format="percent"),
                "Bits": st.column_config.NumberColumn(format="%.3f"),
                "Nats": st.column_config.NumberColumn(format="%.4f"),
            },
        )


def draw_alternatives(alternatives: tuple[Alternative, ...], *, key: str, actual: int | None = None) -> None:
    """Draw the likeliest tokens at a position, `actual` (a token id) in colour."""
    marked = next((place for place, one in enumerate(alternatives) if one.id == actual), None)
    rows = [(one.text, one.probability) for one in alternatives]
    draw_plot(alternatives_bar(rows, marked=marked), key=key, alt="Likeliest tokens with their probabilities")


def _draw_loss(loss: LossSums) -> None:
    grid = st.grid(4, min_column_width=170)
    draw_metric(grid, "Loss, nats per token", _number(loss["mean_nats"]), help=f"Mean over {loss['tokens']} tokens.")
    draw_metric(grid, "Bits per token", _number(loss["mean_bits"]))
    draw_metric(grid, "Perplexity", _number(loss["perplexity"]))
    answers = loss.get("answers")
    if answers is not None:
        draw_metric(
            grid, "Loss of the answer", _number(answers["mean_nats"]), help="Nats per token of the assistant's message."
        )
    else:
        draw_metric(grid, "Bits per byte", _number(loss["bits_per_byte"]), help="Comparable between tokenizers.")


def _draw_token(line: TokenLine, lines: list[TokenLine]) -> None:
    st.subheader(f"Alternatives at token {line.position}", anchor=False)
    if line.surprisal is None or line.bits is None:
        st.caption("The first token has no context, so it is not predicted.")
        return
    before = "".join(one.text for one in lines[max(0, line.position - 6) : line.position])
    st.text(f"…{before}▸{line.text}")
    share = share_text(2.0**-line.bits)
    st.caption(f"Probability {plain(share)}, {line.bits:.2f} bits, {line.surprisal:.3f} nats, rank {line.rank:,}.")
    draw_alternatives(line.expected, key="expected", actual=line.id)
    if line.rank is not None and line.rank > len(line.expected):
        st.caption("The actual token is not among the likeliest.")


def _title(line: TokenLine) -> str:
    if line.bits is None:
        return "not predicted: first token"
    return (
        f"{line.bits:.2f} bits, rank {line.rank:,}\nlikeliest: {line.expected[0].text!r}"
        f" {share_text(line.expected[0].probability)}"
    )


def _number(value: object) -> str:
    return "–" if not isinstance(value, int | float) else f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"


HEAD_MEASURES: dict[str, tuple[str, str, bool]] = {
    "distance": ("Mean distance", "tokens back", False),
    "entropy": ("Entropy", "nats", False),
    "first": ("To the first token", "% of attention", True),
    "previous": ("To the previous token", "% of attention", True),
    "self_share": ("To itself", "% of attention", True),
}
MEASURE_HELP = {
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
        list(HEAD_MEASURES),
        default="distance",
        format_func=lambda k: HEAD_MEASURES[k][0],
        key="attention_measure",
        is_bare=True,
    )
    st.caption(MEASURE_HELP[measure])
    _, unit, percent = HEAD_MEASURES[measure]
    draw_plot(
        head_overview(results.array(f"head_{measure}"), title=unit, percent=percent),
        key="attention_overview",
        alt=f"{HEAD_MEASURES[measure][0]} by layer and head",
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


LENS_COLUMNS = 24
LENS_COLOURS = {"p": "Probability of the top token", "kl": "KL to the final distribution"}


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
        colour = choose_one("Colour", LENS_COLOURS, default="p", key="lens_colour", is_bare=True)
        first = 0
        if total > LENS_COLUMNS:
            first = int(
                st.slider(
                    "From token", 0, total - LENS_COLUMNS, 0, key=f"lens_first_{results.inspection.id}", width=320
                )
            )
    shown = slice(first, first + LENS_COLUMNS)
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
