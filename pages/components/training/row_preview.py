"""The first rows of the chosen dataset, as the objective trains on them."""

from __future__ import annotations

import streamlit as st

from backend.domain.training.objectives import Objective, Rows
from backend.domain.wording import shorten
from backend.services.context import Context
from backend.services.training.row_preview import preview_training_rows
from pages.components.frame import errors_shown, plain

MAX_CHARACTERS = 1_500
ANSWERS = "The loss is on the answers; the prompt is read only."
LOSS: dict[Rows, str] = {
    "text": "Every token is trained on.",
    "conversations": "The loss is on the assistant's answers; everything before is read only.",
    "pairs": ANSWERS,
    "ratings": ANSWERS,
    "prompts": "The model writes completions itself, and the rewards compare them with the answer.",
}
SCORED = "The whole row is scored: the chosen answer above the rejected one."


def draw_row_preview(ctx: Context, dataset: str | None, objective: Objective) -> None:
    """Draw the first rows, once opened, with a mark on what is trained on."""
    panel = st.expander("First rows", icon=":material/table_rows:", key="launch_rows", on_change="rerun")
    if not panel.open:
        return
    with panel, errors_shown():
        if dataset is None:
            st.caption("Choose a dataset to see its first rows.")
            return
        rows = preview_training_rows(ctx, dataset, objective)
        if not rows:
            st.caption("The dataset has no rows yet.")
            return
        st.caption(LOSS[objective.facts.rows] if objective.facts.writes else SCORED)
        for number, parts in enumerate(rows):
            with st.container(border=True, gap="xsmall", key=f"launch_row_{number}"):
                for part in parts:
                    mark = " :green-badge[trained]" if part.is_trained else ""
                    st.markdown(f":small[:gray[{plain(part.title)}]]{mark}")
                    st.code(shorten(part.text, MAX_CHARACTERS) or "(empty)", language=None, wrap_lines=True)
