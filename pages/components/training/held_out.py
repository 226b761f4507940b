"""The tab Predictions of a run: held-out rows, worst loss first, with what the network gave."""

from __future__ import annotations

from typing import Literal

import streamlit as st

from backend.domain.training.held_out import MEASURES, HeldOutRow, HeldOutRows
from backend.domain.wording import plural, visible
from backend.services.context import Context
from backend.services.training.views import RunView, read_held_out

GIVEN = "Model output"


def draw_held_out(ctx: Context, run: RunView) -> None:
    """Draw the held-out rows with the highest losses."""
    held_out = read_held_out(ctx, run)
    if held_out is None:
        st.caption(
            "Rows of the validation split with the highest losses appear here with the first checkpoint that is"
            " validated."
            if run.is_active
            else "This run left no predictions: it has no validation split, or ended before its first checkpoint."
        )
        return
    worst = f"the worst {len(held_out.rows)} of {plural(held_out.num_rows, 'held-out row')}"
    st.markdown(
        f"Step {held_out.step:,}: {worst}, in {MEASURES[held_out.measure]}. The mean of all is"
        f" **{held_out.mean_loss:.4g}**, each row counting once."
    )
    for index, row in enumerate(held_out.rows):
        _draw_row(held_out, row, index)


def _draw_row(held_out: HeldOutRows, row: HeldOutRow, index: int) -> None:
    with st.container(border=True, key=f"held_out_{index}", gap="small"):
        with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
            st.markdown(f"**{row.loss:.4g}**", width="content")
            label = "" if row.is_good is None else " · rated good" if row.is_good else " · rated bad"
            tokens = plural(row.tokens, "trained token") if row.tokens else ""
            st.caption(f"{MEASURES[held_out.measure]}{label}{' · ' if tokens else ''}{tokens}", width="content")
        with st.grid("auto", min_column_width=240):
            for title, text in _texts(row):
                with st.container(gap="xsmall"):
                    st.caption(title)
                    st.code(visible(text), language=None, wrap_lines=True, height=_height(visible(text)))


def _texts(row: HeldOutRow) -> list[tuple[str, str]]:
    answers = [("Chosen", row.expected), ("Rejected", row.rejected)] if row.rejected is not None else []
    answers = answers or [("Answer" if row.is_good is not None else "Expected", row.expected)]
    given = [(GIVEN, row.given)] if row.given is not None else []
    return [("Prompt", row.prompt), *answers, *given]


def _height(text: str) -> int | Literal["content"]:
    return 180 if len(text) > 320 or text.count("\n") > 6 else "content"
