"""What is wrong with a run, in words, each with a run that might do better one click away."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from backend.domain.config_paths import write_changes
from backend.domain.diagnosis import Finding
from backend.services.run_views import RunView
from pages.components.frame import plain

BOXES = {
    "error": (st.error, ":material/emergency_home:"),
    "warning": (st.warning, ":material/troubleshoot:"),
    "note": (st.info, ":material/lightbulb:"),
}


def draw_findings(run: RunView, findings: Sequence[Finding]) -> None:
    """Draw findings: what is seen, the likely cause, and a link to the launch page with what would be changed."""
    for index, finding in enumerate(findings):
        box, icon = BOXES[finding.severity]
        with st.container(horizontal=True, vertical_alignment="center", gap="medium", key=f"finding_{index}"):
            box(f"**{plain(finding.sentence)}**  \n{plain(finding.cause)}", icon=icon, width="stretch")
            if not run.is_imported and finding.changes:
                st.page_link(
                    "build/launch.py",
                    label=finding.action,
                    icon=":material/healing:",
                    query_params={"run": run.id, "set": write_changes(finding.changes)},
                )
