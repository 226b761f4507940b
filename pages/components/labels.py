"""Labels of closed sets, one spelling each. Browser components get them as data."""

from __future__ import annotations

from backend.domain.jobs.states import STATUS_LABELS
from backend.domain.training.objectives import OBJECTIVE_FACTS

OBJECTIVES: dict[str, str] = {str(objective): facts.label for objective, facts in OBJECTIVE_FACTS.items()}
STATUS: dict[str, str] = {status.value: label for status, label in STATUS_LABELS.items()}
"""Labels of the statuses of jobs and runs."""
IMPORTED = "Imported"
"""Label in place of a status: the run is imported from another program's log."""
