"""A checkpoint's exports: asked for, watched, downloaded, pushed to a Hub."""

from __future__ import annotations

import streamlit as st

from backend.domain.checkpoints.export_formats import FORMATS, NUMBERS, gguf_refusal
from backend.domain.jobs.states import Status
from backend.domain.wording import plural
from backend.services.checkpoints.checkpoints import CheckpointView
from backend.services.checkpoints.exports import export_checkpoint, list_exports
from backend.services.context import Context, Person
from backend.services.jobs.exports import ExportView, delete_export, export_file
from pages.components.frame import errors_shown, plain, show_problem
from pages.components.job_progress import draw_job, status_badge
from pages.components.words import ago, size

TITLES = {"hf": "Folder, as it is", "merged": "Folder, merged", "gguf": "GGUF file"}


def draw_exports(ctx: Context, person: Person, checkpoint: CheckpointView) -> None:
    """Draw the form that asks for an export, and those that there are."""
    _draw_form(ctx, person, checkpoint)
    found = list_exports(ctx, checkpoint.id)
    for export in found:
        with st.container(border=True, gap="xsmall"):
            _draw_export(ctx, person, export)
    if not found:
        st.caption("Nothing has been exported yet.")


def _draw_form(ctx: Context, person: Person, checkpoint: CheckpointView) -> None:
    refusal = gguf_refusal(checkpoint.family)
    formats = [name for name in FORMATS if (name != "merged" or checkpoint.is_adapter) and (name != "gguf" or refusal is None)]
    titles = {**TITLES, "hf": "Adapter" if checkpoint.is_adapter else "Folder"}
    format = st.segmented_control(
        "Format", formats, default=formats[-1], required=True, key=f"export_format_{checkpoint.id}", format_func=lambda name: titles[name]
    )
    numbers = "f16"
    st.caption(FORMATS[str(format)])
    if refusal is not None:
        st.caption(f":material/info: {plain(refusal)}")
    if format == "gguf":
        numbers = st.selectbox(
            "Numbers", list(NUMBERS), key=f"export_numbers_{checkpoint.id}", format_func=lambda name: NUMBERS[name], width=420
        )
    push, private = "", True
    if st.toggle("Push it to a Hub as well", key=f"export_pushes_{checkpoint.id}"):
        push = st.text_input(
            "Repository",
            key=f"export_push_{checkpoint.id}",
            placeholder="owner/name",
            max_chars=200,
            width=420,
            help="On the Hub that HF_ENDPOINT names, by the key in the worker's HF_TOKEN. It is made if it is not there.",
        )
        private = st.toggle("A new repository is private", value=True, key=f"export_private_{checkpoint.id}")
        if not push:
            st.caption("Name a repository to push to.")
    asks = st.session_state.get(f"export_pushes_{checkpoint.id}")
    if st.button("Export", key=f"export_{checkpoint.id}", icon=":material/ios_share:", type="primary", disabled=bool(asks and not push)):
        with errors_shown():
            export_checkpoint(ctx, checkpoint.id, format=str(format), numbers=numbers, push=push.strip(), private=private, person=person)
            st.rerun()


def _draw_export(ctx: Context, person: Person, export: ExportView) -> None:
    title = TITLES.get(export.format, export.format)
    what = f"{title}, {NUMBERS[export.numbers].partition(':')[0]}" if export.format == "gguf" and export.numbers in NUMBERS else title
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{what}**", width="content")
        if not export.job.is_active:
            status_badge(export.job.status)
        st.caption(f"{ago(export.job.created_at)}{f' · to {plain(export.push)}' if export.push else ''}", width="content")
    if export.job.is_active:
        draw_job(ctx, person, export.job.id, doing="Exporting")
        return
    if export.job.status is Status.FAILED:
        show_problem(str(export.job.error.get("cause") or "It failed."), export.job.error.get("remedy"))
    if export.pushed_to:
        st.caption(
            f":material/cloud_done: Pushed to `{plain(export.pushed_to)}`, commit `{str(export.job.result['pushed']['commit'])[:12]}`"
        )
    if export.folder is None:
        if export.job.status is Status.FINISHED:
            st.caption("Its files were deleted here.")
        return
    st.caption(
        f"{plural(len(export.files), 'file')}, {size(export.bytes)}: {plain(', '.join(export.files[:6]))}{', …' if len(export.files) > 6 else ''}"
    )
    with st.container(horizontal=True):
        _draw_download(ctx, person, export)
        if st.button("Delete", key=f"export_delete_{export.job.id}", icon=":material/delete:"):
            with errors_shown():
                delete_export(ctx, export.job.id, person=person)
                st.rerun()


def _draw_download(ctx: Context, person: Person, export: ExportView) -> None:
    prepared = st.session_state.get(f"export_file_{export.job.id}")
    if prepared and prepared.is_file():
        name = prepared.name if prepared.suffix == ".gguf" else f"{export.format}-{export.job.id}.zip"
        st.download_button(
            f"Download {name if prepared.suffix == '.gguf' else 'the zip file'}",
            lambda: prepared.open("rb"),
            on_click="ignore",
            file_name=name,
            key=f"export_get_{export.job.id}",
            icon=":material/download:",
            type="primary",
        )
    elif st.button("Prepare a download", key=f"export_prepare_{export.job.id}", icon=":material/download:"):
        with errors_shown():
            st.session_state[f"export_file_{export.job.id}"] = export_file(ctx, export.job.id, person=person)
            st.rerun()
