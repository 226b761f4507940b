"""The settings of what has a name, notes and an archive: a dataset, a checkpoint. Notes are saved on leaving."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

import streamlit as st

from backend.errors import Conflict, RoundhouseError
from backend.services.naming import MAX_NOTES
from pages.components.frame import handled, rerun_after, show_error
from pages.components.words import when

SaveNotes = Callable[[str, str], None]
"""Saves notes, given those that the writer began with; raises Conflict if another person has changed them meanwhile."""


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
    row: Named,
    *,
    rename: Callable[[str], None],
    save_notes: SaveNotes,
    archive: Callable[[bool], None],
    draw_delete: Callable[[], None],
) -> None:
    """Draw the fields and buttons. `archive` takes whether to archive; `draw_delete` fills the popover."""
    draw_notes(row.notes, key=f"notes_{row.id}", save=save_notes)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.text_input("Name", value=row.name, key=f"name_{row.id}")
        if st.button("Rename", key=f"save_{row.id}", icon=":material/save:", disabled=name == row.name):
            with rerun_after():
                rename(name or "")
    with st.container(horizontal=True):
        word = "Restore from the archive" if row.archived_at else "Archive"
        if st.button(word, key=f"archive_{row.id}", icon=":material/archive:"):
            with rerun_after():
                archive(row.archived_at is None)
        with st.popover("Delete", icon=":material/delete:", key=f"delete_{row.id}"):
            draw_delete()


def draw_notes(stored: str, *, key: str, save: SaveNotes, placeholder: str = "") -> None:
    """Draw notes that are saved when their field is left, and say when they were. Where two people write, the second is
    told and chooses: nothing is overwritten unseen, and what could not be saved outlives a change of page.
    """
    state, before, unsaved = st.session_state, f"{key}.before", f"{key}.unsaved"
    if key not in state and unsaved in state:
        state[key] = state[unsaved]
    elif key not in state or (state[key] == state[before] != stored):  # nothing is being written here
        state[key] = state[before] = stored

    def store(*, over: str | None = None) -> None:
        for part in (f"{key}.saved", f"{key}.problem"):
            state.pop(part, None)
        state[unsaved] = state[key]
        try:
            save(state[key], state[before] if over is None else over)
        except RoundhouseError as error:
            state[f"{key}.problem"] = error
        else:
            state[before] = state.pop(unsaved)
            state[f"{key}.saved"] = datetime.now(UTC)

    def take_theirs() -> None:
        state[key] = state[before] = stored
        for part in (f"{key}.problem", unsaved):
            state.pop(part, None)

    st.text_area("Notes", key=key, height=140, max_chars=MAX_NOTES, placeholder=placeholder, on_change=handled(store))
    problem: RoundhouseError | None = state.get(f"{key}.problem")
    if isinstance(problem, Conflict):
        show_error(problem)
        st.caption("Their notes")
        st.code(stored or " ", language=None, wrap_lines=True)
        with st.container(horizontal=True):
            st.button("Save mine over theirs", key=f"{key}_mine", on_click=handled(store), kwargs={"over": stored})
            st.button("Take theirs", key=f"{key}_theirs", on_click=handled(take_theirs))
    elif problem is not None:
        show_error(problem)
    else:
        saved: datetime | None = state.get(f"{key}.saved")
        st.caption(f"Saved {when(saved)}" if saved else "Saved when you leave the field.")
