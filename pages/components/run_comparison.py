"""Runs laid over each other: curves, where their configs differ, and whether what differs is more than their seeds."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from backend.services.context import Context, Person
from backend.services.run_comparisons import ConfigGroup, GroupComparison, compare_by_seed
from backend.services.run_views import RunView
from backend.services.runs import archive_run
from pages.components.config_table import draw_differences
from pages.components.frame import errors_shown, plain
from pages.components.live_chart import live_chart
from pages.components.words import plural


def draw_comparison(ctx: Context, person: Person, runs: Sequence[RunView]) -> None:
    """Draw the curves of runs over each other, and below them what tells them apart."""
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.subheader("Compared" if len(runs) > 1 else "Tick more runs below to compare", anchor=False)
            with st.container(horizontal=True, horizontal_alignment="right"):
                _draw_buttons(ctx, person, runs)
        live_chart(ctx, runs, person=person, key="runs_chart")
        if len(runs) > 1:
            st.markdown("**Differences only**")
            draw_differences(ctx, [run.id for run in runs])
            draw_seeds(*compare_by_seed(ctx, [run.id for run in runs]))


def draw_seeds(groups: Sequence[ConfigGroup], comparisons: Sequence[GroupComparison]) -> None:
    """Draw the last val_loss of each config over its seeds, and what may be said about the configs."""
    if not groups:
        return
    st.markdown("**Seeds**", help="Runs whose configs differ in nothing but the seed, picked or not, by their last val_loss.")
    rows = [
        (group.label, len(group.losses.losses), f"{group.losses.mean:.4f}", "–" if group.losses.sd is None else f"{group.losses.sd:.4f}")
        for group in groups
    ]
    st.dataframe(
        pd.DataFrame(rows, columns=["Config of", "Seeds", "Mean val_loss", "Standard deviation"]),
        key="runs_seeds", hide_index=True, height="content", alt="val_loss over the seeds of each config",
    )  # fmt: skip
    for comparison in comparisons:
        result = comparison.result
        icon = (
            ":material/check_circle:"
            if result.is_beyond_noise
            else ":material/help:"
            if result.is_beyond_noise is None
            else ":material/grain:"
        )
        needed = (
            f" About {plural(comparison.needed, 'seed')} each would show a difference as large as this one." if comparison.needed else ""
        )
        st.markdown(
            f"{icon} **{plain(comparison.better.label)}** against **{plain(comparison.other.label)}**: {plain(result.in_words())}{needed}"
        )
    few = [group for group in groups if len(group.losses.losses) < 3]
    if len(groups) > 1 and few:
        with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
            st.caption("Launch another seed:", width="content")
            for group in few[:6]:
                st.page_link(
                    "build/launch.py", label=f"{plain(group.label)}, seed {group.free_seed}", icon=":material/casino:",
                    query_params={"run": group.runs[0][0], "set": f"seed:{group.free_seed}"},
                )  # fmt: skip


def _draw_buttons(ctx: Context, person: Person, runs: Sequence[RunView]) -> None:
    ended = all(not run.is_active and run.archived_at is None for run in runs)
    if ended and st.button("Archive", key="runs_archive", icon=":material/archive:"):
        with errors_shown():
            for run in runs:
                archive_run(ctx, run.id, person=person)
            del st.query_params["compare"]
            st.rerun()
    if st.button("Clear", key="runs_clear", icon=":material/close:"):
        del st.query_params["compare"]
        st.rerun()
