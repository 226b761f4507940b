"""What became of an import that failed or was stopped: the same once more, or changed where it went wrong."""

from __future__ import annotations

import streamlit as st

from backend.services.context import Context, Person
from backend.services.datasets import VersionView
from backend.services.import_again import import_again
from pages.components.frame import errors_shown

CHANGES = {
    "encoding": "Choose the encoding",
    "mapping": "Correct the columns",
    "kind": "Choose the kind",
    "config": "Choose the config",
    "split": "Choose the split",
}
"""What to press first, by the field that an import named as the one at fault."""


def draw_import_again(ctx: Context, person: Person, version: VersionView) -> None:
    """Draw the ways on from an import that did not finish."""
    field = str(version.error.get("field") or "")
    with st.container(horizontal=True, vertical_alignment="center"):
        if person.may_build and st.button(
            "Import again", key=f"again_{version.id}", icon=":material/replay:", type="primary" if field not in CHANGES else "secondary"
        ):
            with errors_shown():
                again = import_again(ctx, version.id, person=person)
                st.switch_page("build/datasets.py", query_params={"dataset": again.dataset_id, "job": again.job_id or ""})
        query = {"import": "1", "again": version.id}
        st.page_link("build/datasets.py", label=CHANGES.get(field, "Change something first"), icon=":material/tune:", query_params=query)
        st.page_link("build/datasets.py", label="Another source", icon=":material/upload:", query_params={"import": "1"})
    st.caption("Importing again goes on from what was fetched and read, as long as the source is the same.")
