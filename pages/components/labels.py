"""Labels of closed sets, one spelling each. Browser components get them as data."""

from __future__ import annotations

from backend.domain.jobs.states import Status
from backend.domain.training.objectives import OBJECTIVE_FACTS

OBJECTIVES: dict[str, str] = {str(objective): facts.label for objective, facts in OBJECTIVE_FACTS.items()}
STATUS: dict[str, str] = {
    Status.QUEUED.value: "Queued",
    Status.RUNNING.value: "Running",
    Status.CANCELLING.value: "Stopping",
    Status.PAUSED.value: "Paused",
    Status.CANCELLED.value: "Stopped",
    Status.FAILED.value: "Failed",
    Status.FINISHED.value: "Finished",
}
"""Labels of the statuses of jobs and runs."""
IMPORTED = "Imported"
"""Label in place of a status: the run is imported from another program's log."""
