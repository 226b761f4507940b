"""What stands before a launch: errors by field, warnings to accept, and how a new run differs from the one it is made from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import streamlit as st

from backend.domain.training.config import RunConfig
from backend.domain.training.config_fields import changed_fields
from backend.domain.training.launch_warnings import LaunchWarning
from backend.domain.wording import plural
from backend.errors import RoundhouseError
from backend.services.training.views import RunDetail
from pages.components import routes
from pages.components.frame import plain
from pages.components.tables import draw_table
from pages.components.training.config_fields import LABELS, fields_in, label_of, with_labels


def mark_fields(problem: RoundhouseError | None) -> None:
    """Let the fields that an error names have red labels. The page is drawn once more when they change."""
    named = fields_in(problem.message) if problem is not None else ()
    if problem is not None and problem.field in LABELS and problem.field not in named:
        named = (*named, str(problem.field))
    if named != st.session_state.get("launch_at_fault", ()):
        st.session_state["launch_at_fault"] = named
        st.rerun()


def draw_problem(problem: RoundhouseError) -> None:
    """Draw why the form can't be launched, in the form's words."""
    text = plain(with_labels(problem.message)) + (f"  \n{plain(with_labels(problem.remedy))}" if problem.remedy else "")
    st.warning(text, icon=":material/error:")


def draw_warnings(warnings: Sequence[LaunchWarning]) -> bool:
    """Draw warnings with a tick to launch all the same; return whether nothing stands in the way. Other warnings ask anew."""
    if not warnings:
        return True
    with st.container(border=True, key="launch_warnings", gap="small"):
        st.markdown(f":orange[:material/warning:] **{plural(len(warnings), 'thing')} to look at**")
        for warning in warnings:
            st.markdown(f"**{label_of(warning.field)}.** {plain(warning.sentence)} :gray[{plain(warning.cure)}]")
        told = hashlib.sha256("".join(warning.model_dump_json() for warning in warnings).encode()).hexdigest()[:12]
        return st.checkbox("Proceed anyway", key=f"launch_proceed_{told}")


def draw_changes(before: RunDetail, now: RunConfig) -> None:
    """Draw what differs from the run that the form was filled from, and nothing else."""
    with st.container(border=True, key="launch_changes", gap="small"):
        st.subheader("A new run from", anchor=False)
        st.page_link(
            routes.RUN, label=plain(before.run.name), icon=":material/subdirectory_arrow_right:", query_params={"run": before.run.id}
        )
        changes = changed_fields(before.config, now)
        if not changes:
            st.caption("Nothing differs from it yet.")
            return
        rows = [(label_of(c.field), c.before, c.now) for c in changes]
        table = [{"Field": field, "Before": old, "Now": new} for field, old, new in rows]
        draw_table(table, key="launch_differences", alt="Fields that differ from the run before")
