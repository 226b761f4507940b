"""A run's report to take away: Markdown with a model card's head, or one HTML file."""

from __future__ import annotations

import re
from functools import partial

import streamlit as st

from backend.services.context import Context
from backend.services.run_reports import report_text
from backend.services.run_views import RunView

FORMS = (("md", "Markdown, a model card", "text/markdown"), ("html", "One HTML file", "text/html"))


def draw_report(ctx: Context, run: RunView) -> None:
    """Draw what the report holds and its two downloads, which are made when they are asked for."""
    st.caption(
        "Config and what differs from its parent, data with hashes, environment, cost and energy, curves, evaluations, samples, lineage, "
        "and the command that does it again."
    )
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", run.name).strip("-") or "run"
    with st.container(horizontal=True):
        for form, label, mime in FORMS:
            st.download_button(
                label, data=partial(report_text, ctx, run.id, form=form), file_name=f"{name}.{form}", mime=mime,
                key=f"run_report_{form}", icon=":material/description:", on_click="ignore",
            )  # fmt: skip
    if st.toggle("Show it here", key="run_report_shown"):
        text = report_text(ctx, run.id)
        st.code(text, language="markdown", height=520, wrap_lines=True)
