"""Job statuses, kinds and queues, and the requests to stop. Compare-and-set updates are in backend.services.jobs."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

StopRequest = Literal["cancel", "stop_and_save", "drain"]
"""Requests to stop a job; `stop_and_save` keeps a checkpoint, `drain` lets a replica finish its open answers."""


class Status(StrEnum):
    """Status of a job. The last three are terminal."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    FAILED = "failed"
    FINISHED = "finished"


STATUS_LABELS = {
    Status.QUEUED: "Queued",
    Status.RUNNING: "Running",
    Status.CANCELLING: "Stopping",
    Status.PAUSED: "Paused",
    Status.CANCELLED: "Stopped",
    Status.FAILED: "Failed",
    Status.FINISHED: "Finished",
}
"""Labels of statuses on pages, in tables and in the terminal; documents and filters have the values."""


def status_word(status: str) -> str:
    """Return what a sentence says of a status."""
    return STATUS_LABELS[Status(status)].lower()


TERMINAL = frozenset({Status.CANCELLED, Status.FAILED, Status.FINISHED})
ACTIVE = frozenset({Status.QUEUED, Status.RUNNING, Status.CANCELLING})


class JobKind(StrEnum):
    """Kind of a job; each has a room's entry in jobs/run.py, a payload and a result."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    GENERATE = "generate"
    REPLICA = "replica"
    IMPORT_DATASET = "import_dataset"
    TRAIN_TOKENIZER = "train_tokenizer"
    ADD_BASE = "add_base"
    EXPORT = "export"
    EXPORT_DATASET = "export_dataset"
    LOGLIKELIHOOD = "loglikelihood"
    CLASSIFY = "classify"
    PROBE = "probe"
    INSPECT = "inspect"
    DATA_REPORT = "data_report"
    TOKENIZER_REPORT = "tokenizer_report"
    JUDGE = "judge"
    SERVING_PROBE = "serving_probe"
    LOAD_TEST = "load_test"


QUEUE_OF: dict[JobKind, str] = {
    JobKind.TRAIN: "train",
    JobKind.EVALUATE: "eval",
    JobKind.GENERATE: "eval",
    JobKind.LOGLIKELIHOOD: "eval",
    JobKind.CLASSIFY: "eval",
    JobKind.REPLICA: "serve",
    JobKind.IMPORT_DATASET: "cpu",
    JobKind.TRAIN_TOKENIZER: "cpu",
    JobKind.ADD_BASE: "cpu",
    JobKind.EXPORT: "cpu",
    JobKind.EXPORT_DATASET: "cpu",
    JobKind.PROBE: "train",
    JobKind.INSPECT: "eval",
    JobKind.DATA_REPORT: "cpu",
    JobKind.TOKENIZER_REPORT: "cpu",
    JobKind.JUDGE: "eval",
    JobKind.SERVING_PROBE: "serve",
    JobKind.LOAD_TEST: "cpu",
}
QUEUES = ("train", "eval", "serve", "cpu")


def restart_delay_s(restarts: int) -> float:
    """Backoff before a replica's next start: 1, 2, 4, ... at most 60 seconds."""
    return min(60.0, 2.0 ** min(restarts, 6))
