"""Runs laid over each other: curves, where their configs differ, and whether what differs is more than their seeds."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from backend.domain.wording import plural
from backend.services.context import Context, Person
from backend.services.training.comparisons import ConfigGroup, GroupComparison, compare_by_seed
from backend.services.training.imported_runs import import_log
from backend.services.training.runs import archive_run
from backend.services.training.views import RunView, config_differences
from pages.components import routes
from pages.components.browser.live_chart.component import live_chart
from pages.components.frame import errors_shown, plain
from pages.components.tables import draw_table


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
    titles = ("Config of", "Seeds", "Mean val_loss", "Standard deviation")
    table = [dict(zip(titles, row, strict=True)) for row in rows]
    draw_table(table, key="runs_seeds", alt="val_loss over the seeds of each config")
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
                    routes.LAUNCH,
                    label=f"{plain(group.label)}, seed {group.free_seed}",
                    icon=":material/casino:",
                    query_params={"run": group.runs[0][0], "set": f"seed:{group.free_seed}"},
                )


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


def draw_differences(ctx: Context, run_ids: list[str]) -> None:
    """Draw one row a field that differs, one column a run."""
    names, rows = config_differences(ctx, run_ids)
    if not rows:
        st.caption("Their configs are the same.")
        return
    titles = [name if names.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(names, 1)]
    table = [{"Field": field, **dict(zip(titles, values, strict=True))} for field, values in rows]
    draw_table(table, key="config_differences", alt="Fields in which the configs differ")


ENDINGS = "`trainer_state.json` of transformers, a CSV with a column `step`, lines of JSON, or TensorBoard's event file"


def draw_log_import(ctx: Context, person: Person) -> list[str] | None:
    """Draw the popover; return the ids of the runs that were just made."""
    entered = st.session_state.setdefault("log_entered", 0)  # in the keys, so that the popover closes and is empty after an import
    with st.popover("Import logs", icon=":material/input:", key=f"log_popover_{entered}"):
        st.write(f"Curves of another program become a run to compare with: {ENDINGS}.")
        files = st.file_uploader("Files", accept_multiple_files=True, key=f"log_files_{entered}", label_visibility="collapsed")
        name = st.text_input("Name", key=f"log_name_{entered}", max_chars=100, placeholder="That of the file") or ""
        if st.button("Import", key="log_import", type="primary", disabled=not files):
            made: list[str] = []
            with errors_shown():
                for file in files:
                    made += [run.id for run in import_log(ctx, file.getvalue(), filename=file.name, person=person, name=name)]
            if made:
                st.session_state["log_entered"] = entered + 1
            return made or None
    return None
