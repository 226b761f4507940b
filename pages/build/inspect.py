"""Inspect: what a checkpoint makes of a text, and what its weights look like (`?checkpoint=`, `?reading=`, `?against=`)."""

from __future__ import annotations

import streamlit as st

from backend.domain.jobs.states import Status
from backend.services.checkpoints.checkpoints import CheckpointView, get_checkpoint, list_checkpoints
from backend.services.checkpoints.inspection_results import ReadingContents
from backend.services.checkpoints.inspections import ReadingView, get_reading
from backend.services.context import Context, Person
from pages.components import routes
from pages.components.checkpoints.inspection.attention import draw_attention
from pages.components.checkpoints.inspection.form import PAGE, draw_form
from pages.components.checkpoints.inspection.lens import draw_lens
from pages.components.checkpoints.inspection.pair import draw_pair
from pages.components.checkpoints.inspection.tokens import draw_tokens
from pages.components.checkpoints.inspection.weights import draw_weights
from pages.components.frame import empty_state, errors_shown, page_frame, plain, show_problem
from pages.components.job_progress import draw_job
from pages.components.links import back_link

TABS = ("Tokens", "Attention", "Logit lens", "Weights", "Compare")


def draw_choice(ctx: Context) -> None:
    """Draw the checkpoints that can be inspected."""
    names = {one.id: one.name for one in list_checkpoints(ctx, ready=True)}
    if not names:
        empty_state("No checkpoints yet. Train a network, or add a base.", page=routes.CHECKPOINTS, label="Checkpoints")
        return
    chosen = st.selectbox(
        "Checkpoint", list(names), index=None, format_func=lambda k: names[k], key="inspect_choose", placeholder="Choose one", width=480
    )
    st.caption(
        "Then type a text: you see what each token cost, what else was expected, attention, and the logit lens. Weights need no text."
    )
    if chosen:
        st.switch_page(PAGE, query_params={"checkpoint": chosen})


def draw_checkpoint(ctx: Context, person: Person, checkpoint: CheckpointView, reading: ReadingView | None) -> None:
    """Draw the question and its answer."""
    back_link(checkpoint.name, page=routes.CHECKPOINTS, key="inspect_back", query={"checkpoint": checkpoint.id})
    if not checkpoint.is_ready:
        st.info("The files of this checkpoint are not there; what was read before can still be seen.", icon=":material/delete:")
    else:
        draw_form(ctx, person, checkpoint, reading)
    if reading is not None and reading.is_active and reading.job_id:
        draw_job(ctx, person, reading.job_id, doing=f"Reading with {reading.checkpoint}")
        return
    if reading is not None and not reading.is_ready:
        cause = "The reading was stopped." if reading.status is Status.CANCELLED else reading.error.get("cause") or "No cause was reported."
        show_problem(str(cause), reading.error.get("remedy"))
        reading = None
    if reading is not None and reading.config.of_text and reading.result["facts"]["cut"]:
        facts = reading.result["facts"]
        st.info(
            f"The first {facts['tokens']:,} of {facts['total_tokens']:,} tokens were read; the rest was left out.",
            icon=":material/content_cut:",
        )
    tabs = st.tabs(list(TABS), key="tab", bind="query-params")
    for name, tab in zip(TABS, tabs, strict=True):
        if tab.open:
            with tab, errors_shown():
                draw_tab(ctx, person, checkpoint, reading, name)


def draw_tab(ctx: Context, person: Person, checkpoint: CheckpointView, reading: ReadingView | None, name: str) -> None:
    """Draw the tab that is open."""
    if name == "Weights":
        draw_weights(ctx, person, checkpoint)
    elif name == "Compare":
        draw_pair(ctx, person, checkpoint, reading)
    elif reading is None or not reading.config.of_text:
        st.caption(f"Type a text above and read it: {plain(checkpoint.name)} has read nothing yet that could be shown here.")
    else:
        draw = {"Tokens": draw_tokens, "Attention": draw_attention, "Logit lens": draw_lens}[name]
        draw(ReadingContents(ctx, reading))


with page_frame("Inspect", "What a checkpoint makes of a text, token by token, and what its weights look like.") as (ctx, person):
    asked = get_reading(ctx, st.query_params["reading"]) if "reading" in st.query_params else None
    subject = st.query_params.get("checkpoint") or (asked.checkpoint_id if asked is not None else None)
    if subject is None:
        draw_choice(ctx)
    else:
        # a reading shows its own checkpoint, whatever else the address says
        own = asked.checkpoint_id if asked is not None and asked.checkpoint_id else subject
        draw_checkpoint(ctx, person, get_checkpoint(ctx, own), asked)
