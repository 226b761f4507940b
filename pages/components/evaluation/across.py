"""Two checkpoints on every benchmark, with p values adjusted for their number."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from backend.domain.evaluation.score_text import interval_text, p_text, score_label, score_text
from backend.domain.wording import percent, plural
from backend.services.evaluation.baselines import CORRECTION, BenchmarkDifference
from backend.services.evaluation.comparisons import ALPHA, Comparison
from pages.components.frame import plain
from pages.components.tables import draw_table


def adjusted_text(comparison: Comparison, differences: Sequence[BenchmarkDifference]) -> str:
    """Return the shown comparison's adjusted p value: `Adjusted for 4 benchmarks (Holm): p = 0.120`."""
    shown = {comparison.first.id, comparison.second.id}
    own = next(
        (one for one in differences if {one.first.id, one.second.id} == shown and one.metric == comparison.metric), None
    )
    if own is None or own.p_adjusted is None or len(differences) < 2:
        return ""
    return f"Adjusted for {plural(len(differences), 'benchmark')} ({CORRECTION}): {p_text(own.p_adjusted)}"


def draw_across(comparison: Comparison, differences: Sequence[BenchmarkDifference], *, unlike: Sequence[str]) -> None:
    """Draw the differences on every benchmark that both checkpoints have, unless there is a single one, and those left
    out as `unlike`.
    """
    if len(differences) > 1:
        _draw_differences(comparison, differences)
    for one in unlike:
        st.caption(plain(f"Left out: {one}. Evaluate both with the same settings."))


def _draw_differences(comparison: Comparison, differences: Sequence[BenchmarkDifference]) -> None:
    names = {"first": comparison.first.checkpoint, "second": comparison.second.checkpoint}
    st.subheader("All benchmarks", anchor=False)
    rows = [
        {
            "Benchmark": one.column.label,
            "Metric": score_label(one.metric),
            "Difference": score_text(one.metric, one.difference.value, signed=True),
            "95 % interval": (
                interval_text(one.metric, one.difference.low, one.difference.high, signed=True) or "no interval"
            ),
            "p": p_text(one.p_value),
            "Adjusted p": p_text(one.p_adjusted),
            "Better": names.get(one.better or "", "undecided"),
        }
        for one in differences
    ]
    draw_table(rows, key="eval_across", alt="Differences on every benchmark")
    st.caption(
        plain(
            f"{comparison.second.checkpoint} minus {comparison.first.checkpoint}. Adjusted p: {CORRECTION}'s correction"
            f" for {plural(len(differences), 'benchmark')}, which keeps the chance of any false claim below"
            f" {percent(ALPHA)}. Significant if adjusted p < {ALPHA}."
        )
    )
