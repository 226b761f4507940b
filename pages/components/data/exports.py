"""Exports of a dataset version: the form and the list."""

from __future__ import annotations

import streamlit as st

from backend.domain.data.export_formats import DATASET_FORMATS
from backend.services.context import Context, Person
from backend.services.data.exports import export_version, list_version_exports
from backend.services.data.views import VersionView
from pages.components.exports import draw_export, draw_push
from pages.components.frame import errors_shown

TITLES = {"datasets": "Hugging Face datasets", "parquet": "Parquet", "jsonl": "JSON Lines"}


def draw_version_exports(ctx: Context, person: Person, version: VersionView) -> None:
    """Draw the form that asks for an export, and the exports of the version."""
    if person.may_build:
        _draw_form(ctx, person, version)
    exports = list_version_exports(ctx, version.id)
    for export in exports:
        with st.container(border=True, gap="xsmall"):
            draw_export(ctx, person, export, title=TITLES.get(export.format, export.format))
    if not exports:
        st.caption("Nothing has been exported yet.")


def _draw_form(ctx: Context, person: Person, version: VersionView) -> None:
    format = st.segmented_control(
        "Format",
        list(TITLES),
        default="datasets",
        required=True,
        key=f"dataset_export_format_{version.id}",
        format_func=lambda name: TITLES[name],
    )
    st.caption(DATASET_FORMATS[str(format)])
    push, private, is_ready = draw_push(f"dataset_export_{version.id}")
    if st.button(
        "Export", key=f"dataset_export_{version.id}", icon=":material/ios_share:", type="primary", disabled=not is_ready
    ):
        with errors_shown():
            export_version(ctx, version.id, format=str(format), push=push, private=private, person=person)
            st.rerun()
