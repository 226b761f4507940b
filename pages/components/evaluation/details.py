"""Calibration of an evaluation's choices, and its contaminated items. Computed when opened."""

from __future__ import annotations

import plotly.graph_objects as go
import streamlit as st

from backend.domain.evaluation.config import EvaluationKind
from backend.domain.evaluation.score_text import interval_text, score_label, score_text
from backend.domain.statistics.calibration import ProbabilityCalibration
from backend.domain.wording import plural
from backend.services.context import Context
from backend.services.evaluation.calibrations import MIN_ITEMS, read_calibration
from backend.services.evaluation.contamination import ContaminationCheck, check_contamination
from backend.services.evaluation.evaluations import EvaluationView
from pages.components.charts.style import ACCENT, MARGIN, MUTED, error_bars, fade
from pages.components.frame import draw_figure, draw_plot, plain


def draw_evaluation_details(ctx: Context, evaluation: EvaluationView) -> None:
    """Draw the panels of a finished evaluation's calibration and contamination."""
    if evaluation.kind is EvaluationKind.MULTIPLE_CHOICE:
        panel = st.expander("Calibration", icon=":material/tune:", key="eval_calibration", on_change="rerun")
        if panel.open:
            with panel:
                _draw_calibration(read_calibration(ctx, evaluation.id), evaluation.id)
    # the training data of an endpoint are not known
    if evaluation.kind is not EvaluationKind.PERPLEXITY and evaluation.endpoint is None:
        panel = st.expander(
            "Contamination", icon=":material/content_copy:", key="eval_contamination", on_change="rerun"
        )
        if panel.open:
            with panel:
                _draw_contamination(check_contamination(ctx, evaluation), evaluation)


def _draw_calibration(result: ProbabilityCalibration | None, key: str) -> None:
    if result is None:
        st.caption(f"Calibration needs at least {MIN_ITEMS} items with log-likelihoods of their choices.")
        return
    columns = st.columns(2)
    with columns[0].container(border=True, height="stretch"):
        draw_figure("Expected calibration error", f"{100 * result.ece:.1f} points")
        st.caption(
            plain(
                f"A calibrated model shows {100 * result.ece_expected:.1f}, and up to {100 * result.ece_high:.1f}"
                " by chance (95 %)."
            )
        )
    with columns[1].container(border=True, height="stretch"):
        draw_figure("Brier score", f"{result.brier:.3f}")
        st.caption("Mean squared distance of confidence from outcome; lower is better.")
    draw_plot(reliability_figure(result), key=f"reliability_{key}", alt="Accuracy by confidence, with intervals")
    verdict = "Miscalibrated" if result.is_miscalibrated else "No miscalibration found"
    st.caption(
        plain(
            f"{verdict} on {plural(result.n, 'item')}. Confidence is the softmax of the choices' log-likelihoods. "
            "The band holds what a calibrated model shows by chance."
        )
    )


def reliability_figure(result: ProbabilityCalibration) -> go.Figure:
    """Return accuracy by confidence with Wilson intervals, the diagonal, and the band of a calibrated network."""
    confidence = [100 * one.confidence for one in result.bins]
    accuracy = [100 * one.accuracy for one in result.bins]
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 100], y=[0, 100], mode="lines", line={"dash": "dot", "color": MUTED, "width": 1.5}, hoverinfo="skip"
    )
    figure.add_scatter(
        x=[*confidence, *confidence[::-1]],
        y=[*(100 * one.band_high for one in result.bins), *(100 * one.band_low for one in result.bins[::-1])],
        fill="toself",
        fillcolor=fade(MUTED, 0.2),
        line={"width": 0},
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=confidence,
        y=accuracy,
        mode="markers",
        marker={"color": ACCENT, "size": 9},
        error_y=error_bars(
            [(one.accuracy, one.low, one.high) for one in result.bins], scale=100.0, thickness=1.4, width=4
        ),
        customdata=[one.n for one in result.bins],
        hovertemplate="confidence %{x:.1f} %, accuracy %{y:.1f} %, %{customdata} items<extra></extra>",
    )
    figure.update_layout(
        height=320,
        margin=MARGIN,
        showlegend=False,
        xaxis={"title": "confidence, %", "range": [0, 101]},
        yaxis={"title": "accuracy, %", "range": [0, 101]},
    )
    return figure


def _draw_contamination(check: ContaminationCheck, evaluation: EvaluationView) -> None:
    if not check.checked:
        names = f" ({', '.join(check.unchecked)})" if check.unchecked else ""
        st.caption(
            plain(
                f"Not known: no report on the training data{names} has searched it for this version of the benchmark. "
                "Run a report on the dataset's page."
            )
        )
        return
    st.caption(
        plain(f"{plural(len(check.positions), 'item')} also in {', '.join(check.checked)}, by shared runs of 13 words.")
    )
    if check.unchecked:
        st.caption(plain(f"Not searched: {', '.join(check.unchecked)}."))
    if not check.is_complete:
        st.caption("The report lists only some of the items that it found, so the scores can't be split.")
    if check.scores is None:
        return
    metric, columns = evaluation.main_metric, st.columns(3)
    parts = (
        ("Clean items", check.scores.clean),
        ("Contaminated items", check.scores.contaminated),
        ("Difference", check.scores.difference),
    )
    for column, (title, estimate) in zip(columns, parts, strict=True):
        signed = title == "Difference"
        with column.container(border=True, height="stretch"):
            draw_figure(title, score_text(metric, estimate.value, signed=signed) if estimate else "–")
            if estimate:
                interval = interval_text(metric, estimate.low, estimate.high, signed=signed) or "no interval"
                st.caption(plain(f"{interval}, {plural(estimate.n, 'item')}" if not signed else interval))
    st.caption(plain(f"{score_label(metric)}. A higher score on contaminated items may be memory, not skill."))
