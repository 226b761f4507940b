"""Labels of closed sets, one spelling each. Browser components get them as data."""

from __future__ import annotations

from backend.domain.jobs.states import Status
from backend.domain.training.objective_labels import OBJECTIVE_LABELS

OBJECTIVES: dict[str, str] = {str(objective): label for objective, label in OBJECTIVE_LABELS.items()}
MADE_BY = {
    "pretrain": "pretrained",
    "sft": "fine-tuned",
    "dpo": "DPO-trained",
    "kto": "KTO-trained",
    "orpo": "ORPO-trained",
    "simpo": "SimPO-trained",
    "reward": "reward model",
    "grpo": "GRPO-trained",
}
"""Labels of a checkpoint's training, by objective."""
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
