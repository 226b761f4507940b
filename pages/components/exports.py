"""Widgets of any export: the push to a Hub, and one row of the list."""

from __future__ import annotations

from functools import partial

import streamlit as st

from backend.domain.jobs.states import Status
from backend.domain.wording import plural
from backend.services.context import Context, Person
from backend.services.jobs.exports import ExportView, delete_export, export_file
from pages.components.confirm import draw_confirmed
from pages.components.downloads import draw_download
from pages.components.frame import plain, rerun_after, show_problem
from pages.components.job_progress import draw_job, status_badge
from pages.components.words import size, when


def draw_push(key: str) -> tuple[str, bool, bool]:
    """Draw the choice of a repository to push to. Return it ("" for none), whether a new one is private, and whether
    that is complete.
    """
    if not st.toggle("Push to a Hub as well", key=f"{key}_pushes"):
        return "", True, True
    push = st.text_input(
        "Repository",
        key=f"{key}_push",
        placeholder="owner/name",
        max_chars=200,
        width=420,
        help="On the Hub that HF_ENDPOINT names, with the worker's HF_TOKEN. Created if it does not exist.",
    )
    private = st.toggle("A new repository is private", value=True, key=f"{key}_private")
    if not push:
        st.caption("Name a repository to push to.")
    return (push or "").strip(), private, bool(push)


def draw_export(ctx: Context, person: Person, export: ExportView, *, title: str) -> None:
    """Draw one export: its state, where it was pushed to, its download."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{title}**", width="content")
        if not export.job.is_active:
            status_badge(export.job.status)
        st.caption(
            f"{when(export.job.created_at)}{f' · to {plain(export.push)}' if export.push else ''}", width="content"
        )
    if export.job.is_active:
        draw_job(ctx, person, export.job.id, doing="Exporting")
        return
    if export.job.status is Status.FAILED:
        show_problem(export.job.error.cause or "It failed.", export.job.error.remedy)
    if export.pushed is not None:
        st.caption(
            f":material/cloud_done: Pushed to `{plain(export.pushed.url)}`, commit `{export.pushed.commit[:12]}`"
        )
    if export.folder is None:
        if export.job.status is Status.FINISHED:
            st.caption("Its files were deleted here.")
        return
    st.caption(
        f"{plural(len(export.files), 'file')}, {size(export.bytes)}: "
        f"{plain(', '.join(export.files[:6]))}{', …' if len(export.files) > 6 else ''}"
    )
    if export.bits_per_weight is not None:
        cost = f"; {export.check.describe()}" if export.check is not None else ""
        st.caption(plain(f"{export.bits_per_weight} bits per weight{cost}"))
    with st.container(horizontal=True):
        _draw_download(ctx, person, export)
        draw_confirmed(
            "Delete",
            f"Its files, {size(export.bytes)}, are deleted here; what was downloaded or pushed stays.",
            lambda: delete_export(ctx, export.job.id, person=person),
            key=f"export_delete_{export.job.id}",
            type="secondary",
        )


def _draw_download(ctx: Context, person: Person, export: ExportView) -> None:
    prepared = st.session_state.get(f"export_file_{export.job.id}")
    if prepared and prepared.is_file():
        name = prepared.name if prepared.suffix == ".gguf" else f"{export.format}-{export.job.id}.zip"
        label = f"Download {name if prepared.suffix == '.gguf' else 'the zip file'}"
        draw_download(label, partial(prepared.open, "rb"), name, key=f"export_get_{export.job.id}", type="primary")
    elif st.button("Prepare a download", key=f"export_prepare_{export.job.id}", icon=":material/download:"):
        with rerun_after():
            st.session_state[f"export_file_{export.job.id}"] = export_file(ctx, export.job.id, person=person)
