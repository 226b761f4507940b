"""Inspect: losses, attention, logit lens and weights of a checkpoint (`?checkpoint=`, `?inspection=`, `?against=`)."""

from __future__ import annotations

import streamlit as st

from backend.domain.jobs.states import Status
from backend.services.checkpoints.checkpoints import CheckpointView, get_checkpoint, list_checkpoints
from backend.services.checkpoints.inspections import InspectionResults, InspectionView, get_inspection
from backend.services.context import Context, Person
from pages.components import routes
from pages.components.checkpoints.inspection.form import PAGE, draw_inspection_form
from pages.components.checkpoints.inspection.pair import draw_pair
from pages.components.checkpoints.inspection.text import draw_attention, draw_lens, draw_tokens_tab
from pages.components.checkpoints.inspection.weights import draw_weights
from pages.components.choices import choose_from
from pages.components.frame import empty_state, errors_shown, page_frame, show_problem
from pages.components.job_progress import draw_job
from pages.components.links import back_link

TABS = ("Tokens", "Attention", "Logit lens", "Weights", "Compare")


def draw_checkpoint_choice(ctx: Context) -> None:
    """Draw the choice of a checkpoint."""
    names = {one.id: one.name for one in list_checkpoints(ctx, ready=True)}
    if not names:
        empty_state("No checkpoints yet. Train a model, or add a base.", page=routes.CHECKPOINTS, label="Checkpoints")
        return
    chosen = choose_from(
        "Checkpoint", names, key="inspect_choose", value=None, placeholder="Choose a checkpoint", width=480
    )
    st.caption("Then analyze a text: loss per token, predicted tokens, attention and logit lens. Weights need no text.")
    if chosen:
        st.switch_page(PAGE, query_params={"checkpoint": chosen})


def draw_inspected(ctx: Context, person: Person, checkpoint: CheckpointView, inspection: InspectionView | None) -> None:
    """Draw the form and, below it, the inspection."""
    back_link(checkpoint.name, page=routes.CHECKPOINTS, key="inspect_back", query={"checkpoint": checkpoint.id})
    if not checkpoint.is_ready:
        st.info(
            "The files of this checkpoint were deleted. Earlier inspections are still shown.", icon=":material/delete:"
        )
    else:
        draw_inspection_form(ctx, person, checkpoint, inspection)
    if inspection is not None and inspection.is_active and inspection.job_id:
        draw_job(ctx, person, inspection.job_id, doing=f"Analyzing with {inspection.checkpoint}")
        return
    if inspection is not None and not inspection.is_ready:
        cause = (
            "The inspection was stopped."
            if inspection.status is Status.CANCELLED
            else inspection.error.cause or "No cause was reported."
        )
        show_problem(str(cause), inspection.error.remedy)
        inspection = None
    if inspection is not None and inspection.config.of_text and inspection.result["facts"]["cut"]:
        facts = inspection.result["facts"]
        st.info(
            f"Analyzed the first {facts['tokens']:,} of {facts['total_tokens']:,} tokens.",
            icon=":material/content_cut:",
        )
    tabs = st.tabs(list(TABS), key="tab", bind="query-params")
    for name, tab in zip(TABS, tabs, strict=True):
        if tab.open:
            with tab, errors_shown():
                draw_inspection_tab(ctx, person, checkpoint, inspection, name)


def draw_inspection_tab(
    ctx: Context, person: Person, checkpoint: CheckpointView, inspection: InspectionView | None, name: str
) -> None:
    """Draw the tab that is open."""
    if name == "Weights":
        draw_weights(ctx, person, checkpoint)
    elif name == "Compare":
        draw_pair(ctx, person, checkpoint, inspection)
    elif inspection is None or not inspection.config.of_text:
        st.caption("Type a text above and press Analyze.")
    else:
        draw = {"Tokens": draw_tokens_tab, "Attention": draw_attention, "Logit lens": draw_lens}[name]
        draw(InspectionResults(ctx, inspection))


with page_frame("Inspect", "Token losses, attention, logit lens and weights of a checkpoint.", way_back=True) as (
    ctx,
    person,
):
    inspection_id = st.query_params.get("inspection") or st.query_params.get("reading")  # the name in older links
    inspection = get_inspection(ctx, inspection_id) if inspection_id else None
    subject = st.query_params.get("checkpoint") or (inspection.checkpoint_id if inspection is not None else None)
    if subject is None:
        draw_checkpoint_choice(ctx)
    else:
        # an inspection shows its own checkpoint, whatever else the address says
        own = inspection.checkpoint_id if inspection is not None and inspection.checkpoint_id else subject
        draw_inspected(ctx, person, get_checkpoint(ctx, own), inspection)
