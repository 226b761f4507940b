"""Downloads of evaluations, and the import of results that other programs measured."""

from __future__ import annotations

import re
from functools import partial

import streamlit as st

from backend.domain.evaluation.score_text import score_text
from backend.domain.names import as_ascii
from backend.domain.wording import plural
from backend.services.context import Context, Person
from backend.services.evaluation.evaluations import EvaluationView, list_evaluations
from backend.services.evaluation.exchange import (
    ExportFormat,
    board_html,
    export_evaluation,
    import_results,
    list_imported,
    remove_imported,
    scores_csv,
)
from pages.components.confirm import draw_confirmed
from pages.components.downloads import draw_download
from pages.components.frame import plain, rerun_after
from pages.components.tables import WidgetTable
from pages.components.words import when

FORMS: tuple[tuple[ExportFormat, str, str], ...] = (
    ("csv", "Items (CSV)", "csv"),
    ("html", "Report (HTML)", "html"),
    ("lm-eval", "lm-eval results (zip)", "zip"),
)
IMPORTED = WidgetTable("imported", {"Model": 2.4, "Benchmark": 2.0, "Scores": 3.0, "Source": 2.0, "": 0.8})


def draw_downloads(ctx: Context, evaluation: EvaluationView) -> None:
    """Draw the downloads of a finished evaluation, made when they are clicked."""
    name = (
        re.sub(r"[^A-Za-z0-9._-]+", "-", as_ascii(f"{evaluation.checkpoint} {evaluation.benchmark}")).strip("-")
        or "evaluation"
    )
    with st.container(horizontal=True):
        for form, label, ending in FORMS:
            make = partial(export_evaluation, ctx, evaluation.id, form=form)
            draw_download(label, make, f"{name}.{ending}", key=f"eval_export_{form}")


def draw_board_exchange(ctx: Context, person: Person) -> None:
    """Draw the downloads of all scores, the import of results files, and what was imported."""
    with st.container(horizontal=True):
        draw_download(
            "Scores (CSV)", lambda: scores_csv(list_evaluations(ctx, limit=5000)), "scores.csv", key="board_csv"
        )
        draw_download("Leaderboards (HTML)", partial(board_html, ctx), "leaderboards.html", key="board_html")
    with st.form("eval_import", border=False, clear_on_submit=True):
        files = st.file_uploader(
            "Results of lm-evaluation-harness, or JSON of the same form",
            type=["json"],
            accept_multiple_files=True,
            key="eval_import_files",
        )
        if st.form_submit_button("Import", icon=":material/upload:"):
            with rerun_after():
                before = len(list_imported(ctx))
                for file in files or ():
                    import_results(ctx, file.getvalue(), source=file.name, person=person)
                if files:
                    num_new = len(list_imported(ctx)) - before
                    st.toast(f"{plural(num_new, 'result')} imported." if num_new else "Nothing new: imported before.")
    st.caption(
        "Imported scores stand beside ours, read-only and marked. They are not ranked, and never compared item by item."
    )
    _draw_imported(ctx, person)


def _draw_imported(ctx: Context, person: Person) -> None:
    rows = list_imported(ctx)
    if not rows:
        return
    with IMPORTED.frame():
        for row in rows[:50]:
            columns = IMPORTED.row(row.id)
            columns[0].text(row.model)
            columns[1].text(row.benchmark)
            columns[2].text(", ".join(f"{one.metric} {score_text(one.metric, one.value)}" for one in row.scores[:4]))
            columns[3].caption(
                plain(f"{row.source}, {row.harness or 'harness not stated'}, {when(row.created_at, now=ctx.now())}")
            )
            with columns[4]:
                draw_confirmed(
                    "Remove",
                    f"Every score of {plain(row.source)} is removed.",
                    partial(remove_imported, ctx, row.id, person=person),
                    key=f"imported_remove_{row.id}",
                )
    if len(rows) > 50:
        st.caption(f"The newest 50 of {len(rows):,}.")
