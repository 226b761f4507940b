"""Tokens of an inspection: the loss of each, its likeliest alternatives, and the next token."""

from __future__ import annotations

import streamlit as st

from backend.domain.checkpoints.inspection import LossSums
from backend.services.checkpoints.inspections import Alternative, InspectionResults, TokenLine
from pages.components.browser.token_strip.component import token_strip
from pages.components.checkpoints.inspection.charts import alternatives_bar, share_text
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
