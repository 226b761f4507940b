"""Logs of other programs, brought in as runs to compare with."""

from __future__ import annotations

import streamlit as st

from backend.services.context import Context, Person
from backend.services.foreign_runs import import_log
from pages.components.frame import errors_shown

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
