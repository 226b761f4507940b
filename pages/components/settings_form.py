"""The settings of what has a name, notes and an archive: a dataset, a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

import streamlit as st

from pages.components.frame import errors_shown


class Named(Protocol):
    """A view of a row with a name and notes."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def notes(self) -> str:
        """Its notes."""

    @property
    def archived_at(self) -> datetime | None:
        """Time of its archiving; None in the lists."""


def draw_settings_form(
    row: Named, *, save: Callable[[str, str], None], archive: Callable[[bool], None], draw_delete: Callable[[], None]
) -> None:
    """Draw the fields and buttons. `save` takes name and notes, `archive` whether to archive; `draw_delete` fills the
    popover.
    """
    name = st.text_input("Name", value=row.name, key=f"name_{row.id}")
    notes = st.text_area("Notes", value=row.notes, key=f"notes_{row.id}")
    with st.container(horizontal=True):
        if st.button("Save", key=f"save_{row.id}", icon=":material/save:", type="primary"):
            with errors_shown():
                save(name or "", notes or "")
                st.rerun()
        word = "Restore from the archive" if row.archived_at else "Archive"
        if st.button(word, key=f"archive_{row.id}", icon=":material/archive:"):
            with errors_shown():
                archive(row.archived_at is None)
                st.rerun()
        with st.popover("Delete", icon=":material/delete:", key=f"delete_{row.id}"):
            draw_delete()
