"""Scores of a run's checkpoints beside its validation loss, and all scores of one checkpoint."""

from __future__ import annotations

import streamlit as st

from backend.domain.evaluation.score_text import interval_text, score_label, score_text
from backend.domain.wording import plural
from backend.services.checkpoints.checkpoints import CheckpointView
from backend.services.context import Context
from backend.services.evaluation.board import caveats_of, void_reason_of
from backend.services.evaluation.evaluations import EvaluationView, list_evaluations
from backend.services.evaluation.open_suites import list_choices
from backend.services.evaluation.suites import read_run_scores
from pages.components import routes
from pages.components.evaluation.charts import ScoreLine, curve_figure
from pages.components.evaluation.matrix import draw_pending
from pages.components.frame import draw_plot, empty_state, plain
from pages.components.links import row_link
from pages.components.tables import WidgetTable
from pages.components.words import when

MOMENTS = {"end": "when the run ends", "checkpoint": "at each checkpoint"}


TABLE = WidgetTable(
    "checkpoint_scores", {"Benchmark": 2.4, "Score": 1.8, "95 % interval": 1.6, "Items": 0.9, "When": 1}
)
LISTED = 100


def draw_checkpoint_scores(ctx: Context, checkpoint: CheckpointView) -> None:
    """Draw every evaluation of a checkpoint, newest first, and the scores along its run."""
    if not checkpoint.writes:
        st.caption("Reward models generate no answers, so they are not evaluated.")
        return
    evaluations = list_evaluations(ctx, checkpoint_id=checkpoint.id, limit=LISTED)
    if not evaluations:
        empty_state(
            "No evaluations of this checkpoint yet.",
            page=routes.EVALUATIONS,
            query={"checkpoint": checkpoint.id},
            label="Evaluate",
            icon=":material/grading:",
        )
    else:
        with TABLE.frame():
            for evaluation in evaluations:
                _draw_score_row(ctx, evaluation)
        st.caption(f"The newest {LISTED}." if len(evaluations) == LISTED else "The link leads to the items.")
    if checkpoint.run_id is not None:
        draw_run_scores(ctx, checkpoint.run_id, heading="Along the run", mark=checkpoint.step)


def _draw_score_row(ctx: Context, evaluation: EvaluationView) -> None:
    columns = TABLE.row(evaluation.id)
    task = evaluation.config.task
    shots = task.fewshot.count if task else evaluation.config.shots
    name = f"{task.shown_title} on {evaluation.benchmark}" if task else evaluation.benchmark
    with columns[0]:
        row_link(
            f"{name}, {shots}-shot" if shots else name,
            page=routes.EVALUATIONS,
            query={"evaluation": evaluation.id},
            key=f"score_{evaluation.id}",
        )
    score = evaluation.main_score
    if score is None:
        with columns[1]:
            draw_pending(evaluation, key=f"checkpoint_{evaluation.id}")
    else:
        with columns[1]:
            st.text(f"{score_text(score.metric, score.value)} {score_label(score.metric).lower()}")
            if cautions := [*filter(None, [void_reason_of(evaluation)]), *caveats_of(evaluation)]:
                st.caption(f":material/warning: {plain('; '.join(cautions))}")
        columns[2].text(interval_text(score.metric, score.low, score.high) or "–")
        columns[3].text(f"{score.n:,}")
    columns[4].caption(when(evaluation.created_at, now=ctx.now()))


def draw_run_scores(ctx: Context, run_id: str, *, heading: str = "Scores", mark: int | None = None) -> None:
    """Draw scores by step with intervals above the validation loss, with a line at the step `mark`; nothing for a run
    without suites and evaluations.
    """
    chosen, scores = list_choices(ctx, run_id), read_run_scores(ctx, run_id)
    if not (chosen or scores.curves or scores.num_active):
        return
    st.subheader(heading, anchor=False)
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
        ScoreLine(c.label, c.metric, [(step, s.value, s.low, s.high) for step, s in c.points]) for c in scores.curves
    ]
    alt = f"{len(lines)} scores by training step with intervals, and the validation loss"
    draw_plot(curve_figure(scores.losses, lines, mark=mark), key=f"run_scores_{run_id}", alt=alt)
    st.caption("Bars are 95 % confidence intervals. The loss is that of each checkpoint.")
