"""Exports of a checkpoint: form, progress, download, push to a Hub."""

from __future__ import annotations

import streamlit as st

from backend.domain.checkpoints.export_formats import FORMATS, NUMBERS, gguf_refusal
from backend.services.checkpoints.checkpoints import CheckpointView
from backend.services.checkpoints.exports import export_checkpoint, list_exports
from backend.services.context import Context, Person
from backend.services.jobs.exports import ExportView
from pages.components.exports import draw_export, draw_push
from pages.components.frame import errors_shown, plain

TITLES = {"hf": "Hugging Face folder", "merged": "Hugging Face folder, adapter merged", "gguf": "GGUF file"}


def draw_exports(ctx: Context, person: Person, checkpoint: CheckpointView) -> None:
    """Draw the form and the list of exports."""
    _draw_form(ctx, person, checkpoint)
    exports = list_exports(ctx, checkpoint.id)
    for export in exports:
        with st.container(border=True, gap="xsmall"):
            draw_export(ctx, person, export, title=_title(export))
    if not exports:
        st.caption("No exports yet.")


def _draw_form(ctx: Context, person: Person, checkpoint: CheckpointView) -> None:
    refusal = gguf_refusal(checkpoint.family)
    formats = [
        name for name in FORMATS if (name != "merged" or checkpoint.is_adapter) and (name != "gguf" or refusal is None)
    ]
    titles = {**TITLES, "hf": "Adapter" if checkpoint.is_adapter else "Folder"}
    format = st.segmented_control(
        "Format",
        formats,
        default=formats[-1],
        required=True,
        key=f"export_format_{checkpoint.id}",
        format_func=lambda name: titles[name],
    )
    numbers = "f16"
    st.caption(FORMATS[str(format)])
    if refusal is not None:
        st.caption(f":material/info: {plain(refusal)}")
    if format == "gguf":
        numbers = st.selectbox(
            "Precision",
            list(NUMBERS),
            key=f"export_numbers_{checkpoint.id}",
            format_func=lambda name: f"{name.upper()} · {NUMBERS[name]}",
            width=420,
        )
    push, private, is_ready = draw_push(f"export_{checkpoint.id}")
    if st.button(
        "Export", key=f"export_{checkpoint.id}", icon=":material/ios_share:", type="primary", disabled=not is_ready
    ):
        with errors_shown():
            export_checkpoint(
                ctx, checkpoint.id, format=str(format), numbers=numbers, push=push, private=private, person=person
            )
            st.rerun()


def _title(export: ExportView) -> str:
    title = TITLES.get(export.format, export.format)
    return f"{title}, {export.numbers.upper()}" if export.format == "gguf" else title
