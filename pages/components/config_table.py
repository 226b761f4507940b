"""Where the configs of several runs differ, as a table."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from backend.services.context import Context
from backend.services.run_views import config_differences


def draw_differences(ctx: Context, run_ids: list[str]) -> None:
    """Draw one row a field that differs, one column a run."""
    names, rows = config_differences(ctx, run_ids)
    if not rows:
        st.caption("Their configs are the same.")
        return
    table = pd.DataFrame([values for _, values in rows], index=[field for field, _ in rows], columns=names)
    st.dataframe(table, key="config_differences", alt="Fields in which the configs differ", height="content")
