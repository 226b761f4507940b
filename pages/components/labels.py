"""Labels of runs, one spelling each. Browser components get them as data."""

from __future__ import annotations

from backend.domain.jobs.states import STATUS_LABELS

IMPORTED = "Imported"
"""Label in place of a status: the run is imported from another program's log."""
RUN_WORDS = {"status": STATUS_LABELS, "imported": IMPORTED}
