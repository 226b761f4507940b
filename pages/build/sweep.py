"""Sweep: runs that differ in chosen fields (`?sweep=`)."""

from __future__ import annotations

import streamlit as st

from pages.components import routes
from pages.components.frame import empty_state, page_frame
from pages.components.training.sweep import draw_sweep

with page_frame("Sweep", "Hyperparameter search over runs that differ in the chosen fields.", objects=["sweep"]) as (
    ctx,
    person,
):
    if sweep_id := st.query_params.get("sweep"):
        draw_sweep(ctx, person, sweep_id)
    else:
        empty_state("No sweep selected.", page=routes.LAUNCH, label="Launch one", icon=":material/rocket_launch:")
