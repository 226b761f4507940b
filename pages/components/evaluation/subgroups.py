"""Scores of a task's subgroups, such as the subjects of MMLU, with macro and micro averages."""

from __future__ import annotations

import streamlit as st

from backend.domain.statistics.estimates import Estimate
from backend.domain.statistics.groups import macro_average, micro_average
from backend.services.evaluation.evaluations import EvaluationView, ScoreView
from pages.components.evaluation.scores import interval_text, is_share, score_label, score_text
from pages.components.tables import draw_table


def draw_subgroups(evaluation: EvaluationView) -> None:
    """Draw a table of the subgroups for each metric that has some; nothing for a benchmark without."""
    groups = set(evaluation.config.task.groups) if evaluation.config.task else set()
    for metric in dict.fromkeys(score.metric for score in evaluation.scores if score.subgroup):
        scores = {score.subgroup: score for score in evaluation.scores if score.subgroup and score.metric == metric}
        subgroups = {name: score for name, score in scores.items() if name not in groups}
        with st.expander(
            f"{score_label(metric)} of {len(subgroups)} subgroups",
            icon=":material/account_tree:",
            key=f"subgroups_{metric}",
        ):
            rows = [_row(name, score, metric) for name, score in scores.items() if name in groups]
            rows += [_row(name, score, metric) for name, score in subgroups.items()]
            draw_table(
                [*_averages(list(subgroups.values()), metric), *rows],
                key=f"subgroups_{metric}",
                alt="Scores of subgroups",
            )
            means = "Macro: every subgroup counts the same. Micro: every item does. " if is_share(metric) else ""
            st.caption(f"{means}95 % confidence intervals.")


def _averages(scores: list[ScoreView], metric: str) -> list[dict[str, object]]:
    if not is_share(metric) or not scores or any(score.n < 1 for score in scores):
        return []
    estimates = [Estimate(s.value, s.stderr, s.low, s.high, s.n, s.method) for s in scores]
    averages = {"Macro average": macro_average(estimates), "Micro average": micro_average(estimates)}
    return [
        _row(name, ScoreView(metric, e.value, e.stderr, e.low, e.high, e.n, e.method), metric)
        for name, e in averages.items()
    ]


def _row(name: str, score: ScoreView, metric: str) -> dict[str, object]:
    interval = interval_text(metric, score.low, score.high)
    return {"Subgroup": name, "Score": score_text(metric, score.value), "95 % interval": interval, "Items": score.n}
