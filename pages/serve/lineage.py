"""Lineage: the origin of an endpoint (`?endpoint=`) or a checkpoint (`?checkpoint=`), back to the files."""

from __future__ import annotations

import streamlit as st

from backend.services.checkpoints.checkpoints import list_checkpoints
from backend.services.context import Context
from backend.services.lineage import lineage_of_checkpoint, lineage_of_endpoint
from backend.services.serving.endpoints import list_endpoints
from pages.components import routes
from pages.components.choices import choose_from
from pages.components.frame import empty_state, page_frame, plain, title_tab
from pages.components.links import set_parameters
from pages.components.serving.lineage import draw_lineage

MAX_CHOICES = 500


def choose_subject(ctx: Context) -> tuple[str, str] | None:
    """Draw the choice of an endpoint or checkpoint; return (kind, name or id)."""
    endpoints = [("endpoint", endpoint.name) for endpoint in list_endpoints(ctx)]
    checkpoints = {checkpoint.id: checkpoint.name for checkpoint in list_checkpoints(ctx)[:MAX_CHOICES]}
    choices = [*endpoints, *(("checkpoint", checkpoint_id) for checkpoint_id in checkpoints)]
    requested = next(
        ((kind, st.query_params[kind]) for kind in ("endpoint", "checkpoint") if kind in st.query_params), None
    )
    if requested is not None and requested not in choices:
        return requested  # a deleted checkpoint has a lineage, too
    if not choices:
        empty_state("Nothing has been trained or deployed yet.", page=routes.LAUNCH, label="Launch a run")
        return None
    shown = requested or choices[0]
    chosen: tuple[str, str] = choose_from(
        "Endpoint or checkpoint",
        choices,
        words=lambda choice: f"{choice[0]} {checkpoints.get(choice[1], choice[1])}",
        key=f"lineage_{shown[0]}_{shown[1]}",  # one that is gone back to shows what its address names
        value=shown,
    )
    if chosen != shown:
        set_parameters(**{"endpoint": "", "checkpoint": "", chosen[0]: chosen[1]})
        st.rerun()
    return chosen


with page_frame(
    "Lineage",
    "From an endpoint or checkpoint back through decisions, votes, runs and data to the files.",
    way_back=True,
) as (context_, person_):
    subject_ = choose_subject(context_)
    if subject_ is not None:
        kind_, name_ = subject_
        lineage_ = (
            lineage_of_endpoint(context_, name_) if kind_ == "endpoint" else lineage_of_checkpoint(context_, name_)
        )
        st.subheader(plain(lineage_.title), anchor=False)
        title_tab(lineage_.title)
        draw_lineage(context_, lineage_)
