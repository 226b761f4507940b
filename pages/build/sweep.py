"""Sweep: one group of runs that differ in chosen fields. Its address is kept."""

from __future__ import annotations

import streamlit as st

from pages.components import routes
from pages.components.frame import empty_state, page_frame
from pages.components.training.sweep import draw_sweep

with page_frame("Sweep", "One run, many values: which of them is best.") as (ctx, person):
    if wanted := st.query_params.get("sweep"):
        draw_sweep(ctx, person, wanted)
    else:
        empty_state("No sweep is chosen.", page=routes.LAUNCH, label="Launch one", icon=":material/rocket_launch:")
