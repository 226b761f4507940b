"""What became of an import that failed or was stopped: the same once more, or changed where it went wrong."""

from __future__ import annotations

from typing import Literal

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
        if person.may_build:
            if field == "keep_good" and st.button("Keep the good rows", key=f"keep_{version.id}", type="primary"):
                _go(ctx, person, version, keep_good=True)
            kind: Literal["primary", "secondary"] = "secondary" if field in {*CHANGES, "keep_good"} else "primary"
            if st.button("Import again", key=f"again_{version.id}", icon=":material/replay:", type=kind):
                _go(ctx, person, version)
        # a page link to the page that is open would leave its address as it is
        if st.button(CHANGES.get(field, "Change something first"), key=f"change_{version.id}", icon=":material/tune:"):
            st.switch_page("build/datasets.py", query_params={"import": "1", "again": version.id})
        if st.button("Another source", key=f"other_{version.id}", icon=":material/upload:", type="tertiary"):
            st.switch_page("build/datasets.py", query_params={"import": "1"})
    st.caption("Importing again goes on from what was fetched and read, as long as the source is the same.")


def _go(ctx: Context, person: Person, version: VersionView, *, keep_good: bool = False) -> None:
    with errors_shown():
        again = import_again(ctx, version.id, person=person, keep_good=keep_good)
        st.switch_page("build/datasets.py", query_params={"dataset": again.dataset_id, "job": again.job_id or ""})
