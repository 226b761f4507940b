"""Scores of a run's checkpoints beside its validation loss, on the run's page."""

from __future__ import annotations

import streamlit as st

from backend.domain.wording import plural
from backend.services.context import Context
from backend.services.evaluation.open_suites import list_choices
from backend.services.evaluation.run_scores import read_run_scores
from pages.components.charts.style import STATIC
from pages.components.evaluation.charts import CurveLine, curve_figure
from pages.components.frame import plain

MOMENTS = {"end": "when the run ends", "checkpoint": "at each checkpoint"}


def draw_run_scores(ctx: Context, run_id: str) -> None:
    """Draw scores by step with intervals above the validation loss; nothing for a run without suites and
    evaluations.
    """
    chosen, scores = list_choices(ctx, run_id), read_run_scores(ctx, run_id)
    if not (chosen or scores.curves or scores.num_active):
        return
    st.subheader("Scores", anchor=False)
    for name, moment in chosen:
        st.caption(plain(f"Suite {name} is evaluated {MOMENTS[moment]}."))
    if scores.failed_steps:
        steps = ", ".join(f"{step:,}" for step in scores.failed_steps[:12])
        st.warning(
            f"Not scored: the checkpoints of steps {steps}. Reasons are on the suite's page. Where evaluations are much"
            " slower than training, or the disk is full, a run removes checkpoints before they are scored.",
            icon=":material/warning:",
        )
    if scores.num_active:
        st.caption(f":material/progress_activity: {plural(scores.num_active, 'evaluation')} queued or running.")
    if not scores.curves:
        st.caption("Scores appear here as checkpoints are evaluated.")
        return
    lines = [
        CurveLine(c.label, c.metric, [(step, s.value, s.low, s.high) for step, s in c.points]) for c in scores.curves
    ]
    alt = f"{len(lines)} scores by training step with intervals, and the validation loss"
    st.plotly_chart(curve_figure(scores.losses, lines), key=f"run_scores_{run_id}", config=STATIC, alt=alt)
    st.caption("Bars are 95 % confidence intervals. The loss is that of each checkpoint.")
