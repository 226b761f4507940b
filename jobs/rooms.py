"""The module that runs the jobs of each kind."""

from __future__ import annotations

import gc
import importlib
from typing import Any

from backend.domain.jobs.states import JobKind

ROOMS: dict[JobKind, str] = {
    JobKind.TRAIN: "jobs.training.run",
    JobKind.EVALUATE: "jobs.evaluation.run",
    JobKind.GENERATE: "jobs.evaluation.run_generate",
    JobKind.LOGLIKELIHOOD: "jobs.evaluation.run_loglikelihood",
    JobKind.CLASSIFY: "jobs.evaluation.run_classify",
    JobKind.REPLICA: "jobs.serving.replica",
    JobKind.IMPORT_DATASET: "jobs.data.run",
    JobKind.TRAIN_TOKENIZER: "jobs.modeling.entries.tokenizer",
    JobKind.ADD_BASE: "jobs.modeling.entries.base",
    JobKind.EXPORT: "jobs.modeling.entries.export",
    JobKind.EXPORT_DATASET: "jobs.data.export",
    JobKind.PROBE: "jobs.training.probe",
    JobKind.INSPECT: "jobs.evaluation.inspection.run",
    JobKind.DATA_REPORT: "jobs.data.reports.run",
    JobKind.TOKENIZER_REPORT: "jobs.modeling.entries.tokenizer_report",
    JobKind.JUDGE: "jobs.evaluation.judges.run",
    JobKind.SERVING_PROBE: "jobs.serving.probe",
    JobKind.LOAD_TEST: "jobs.serving.load_test",
}


def import_room(kind: JobKind) -> Any:
    """Import the room of a kind of job. Without garbage collection, a sixth of the time: modules stay."""
    gc.disable()
    try:
        return importlib.import_module(ROOMS[kind])
    finally:
        gc.freeze()
        gc.enable()
