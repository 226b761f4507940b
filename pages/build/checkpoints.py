"""Checkpoints and bases: the list, one checkpoint (`?checkpoint=`), its promotion (`?promote=`), the form that adds a
base (`?add=1`).
"""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from backend.domain.jobs.states import ACTIVE
from backend.domain.training.metric_labels import validation_result
from backend.domain.training.objectives import made_by
from backend.domain.wording import short
from backend.services.checkpoints.checkpoints import CheckpointView, get_checkpoint, list_checkpoints
from backend.services.context import Context
from backend.services.serving.aliases import alias_names
from backend.services.training.diagnosis import spoiled_checkpoints
from pages.components import routes
from pages.components.battles.promotion import draw_promotion_page
from pages.components.checkpoints.base_form import draw_base_form
from pages.components.checkpoints.checkpoint import draw_checkpoint
from pages.components.choices import choose_one
from pages.components.frame import live_part, no_checkpoint_state, page_frame, plain
from pages.components.job_progress import status_badge
from pages.components.links import back_link, row_link
from pages.components.tables import WidgetTable
from pages.components.words import size, when

TABLE = WidgetTable("checkpoints", {"Name": 2.6, "Kind": 1.3, "Facts": 3.4, " ": 0.9})
KINDS = {"all": "All", "added": "Bases", "run": "From runs"}
SHOWN = 100


def draw_checkpoint_row(checkpoint: CheckpointView, aliases: Sequence[str], *, diverged: bool) -> None:
    """Draw one row of the list, with the aliases that the checkpoint holds."""
    columns = TABLE.row(checkpoint.id)
    icon = "foundation" if checkpoint.origin == "added" else "deployed_code"
    with columns[0], st.container(gap=None):
        row_link(
            checkpoint.name,
            page=routes.CHECKPOINTS,
            query={"checkpoint": checkpoint.id},
            icon=icon,
            key=f"open_{checkpoint.id}",
        )
        for alias in aliases:  # a badge would cut a long name, and its end says the stage
            st.caption(f":material/bookmark: {plain(alias)}")
    with columns[1]:
        if not checkpoint.is_ready:
            status_badge(checkpoint.status)
        else:
            kind = "base" if checkpoint.origin == "added" else made_by(checkpoint.objective)
            st.badge("adapter" if checkpoint.is_adapter else kind, color="violet" if checkpoint.is_adapter else "gray")
    result = validation_result(checkpoint.metrics, checkpoint.objective)
    facts = [
        f"{short(checkpoint.parameters)} parameters" if checkpoint.parameters else "",
        size(checkpoint.bytes) if checkpoint.is_ready else "",
        f"{result[0]} {result[1]:.3f}" if result is not None else "",
        when(checkpoint.created_at),
    ]
    columns[2].caption(" · ".join(fact for fact in facts if fact))
    if diverged:
        columns[3].badge("diverged", icon=":material/emergency_home:", color="red")
    elif checkpoint.is_final:
        columns[3].badge("final", icon=":material/flag:", color="green")


def draw_checkpoint_list(ctx: Context) -> None:
    """Draw the checkpoints with a search and a filter, refreshed every two seconds while a base is being added."""
    with st.container(horizontal=True, vertical_alignment="center"):
        text = st.text_input(
            "Search", key="find", bind="query-params", placeholder="Search", label_visibility="collapsed", width=260
        )
        kind = choose_one("Show", KINDS, default="all", key="kind", bind="query-params", is_bare=True)
        archived = st.toggle("Archived", key="archived", bind="query-params")
        st.space("stretch")
        if st.button("Add a base", type="primary", icon=":material/add:", key="checkpoints_add"):
            st.switch_page(routes.CHECKPOINTS, query_params={"add": "1"})
    origin = None if kind == "all" else kind
    active = any(not c.is_ready and c.status in ACTIVE for c in list_checkpoints(ctx, archived=archived))

    @live_part(2 if active else None)
    def rows() -> None:
        aliases = alias_names(ctx)
        checkpoints = [
            c
            for c in list_checkpoints(ctx, origin=origin, archived=archived)
            if text.lower() in f"{c.name} {c.family} {c.run} {' '.join(aliases.get(c.id, ()))}".lower()
        ]
        if active and not any(not c.is_ready and c.status in ACTIVE for c in checkpoints):
            st.rerun()
        if not checkpoints:
            draw_empty(text)
            return
        shown = checkpoints[:SHOWN]
        spoiled = spoiled_checkpoints(ctx, [checkpoint.id for checkpoint in shown])
        with TABLE.frame():
            for checkpoint in shown:
                draw_checkpoint_row(checkpoint, aliases.get(checkpoint.id, ()), diverged=checkpoint.id in spoiled)
        if len(checkpoints) > SHOWN:
            st.caption(f"The newest {SHOWN} of {len(checkpoints):,}. Search for the others.")

    rows()


def draw_empty(text: str) -> None:
    """Draw why the list is empty and what to do."""
    if text:
        st.caption(f"Nothing here matches “{plain(text)}”.")
        return
    no_checkpoint_state("No checkpoints yet. Train a model, or add a base to start from.")


with page_frame(
    "Checkpoints", "Weights from your runs, and bases to start from.", objects=["checkpoint", "promote", "add"]
) as (ctx, person):
    if "add" in st.query_params:
        back_link("All checkpoints", page=routes.CHECKPOINTS, key="checkpoints_back")
        added = draw_base_form(ctx, person)
        if added is not None:
            st.switch_page(routes.CHECKPOINTS, query_params={"checkpoint": added.id})
    elif "promote" in st.query_params:
        promoted = st.query_params["promote"]
        back_link("Checkpoint", page=routes.CHECKPOINTS, key="promotion_back", query={"checkpoint": promoted})
        draw_promotion_page(ctx, person, promoted)
    elif "checkpoint" in st.query_params:
        back_link("All checkpoints", page=routes.CHECKPOINTS, key="checkpoints_back")
        draw_checkpoint(ctx, person, get_checkpoint(ctx, st.query_params["checkpoint"]))
    else:
        draw_checkpoint_list(ctx)
