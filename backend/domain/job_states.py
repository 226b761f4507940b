"""Which status follows which. Pure rules; the compare-and-set that enforces them is in services.jobs."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """Where a job is. The last three are terminal."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    FAILED = "failed"
    FINISHED = "finished"


TERMINAL = frozenset({Status.CANCELLED, Status.FAILED, Status.FINISHED})
ACTIVE = frozenset({Status.QUEUED, Status.RUNNING, Status.CANCELLING})

ALLOWED: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.RUNNING, Status.CANCELLED, Status.FAILED}),
    Status.RUNNING: frozenset({Status.QUEUED, Status.CANCELLING, Status.PAUSED, Status.CANCELLED, Status.FAILED, Status.FINISHED}),
    Status.CANCELLING: frozenset({Status.PAUSED, Status.CANCELLED, Status.FAILED, Status.FINISHED}),
    Status.PAUSED: frozenset({Status.QUEUED, Status.CANCELLED}),
    Status.CANCELLED: frozenset(),
    Status.FAILED: frozenset(),
    Status.FINISHED: frozenset(),
}


class JobKind(StrEnum):
    """What a job does; each kind names a room's entry in jobs/run.py."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    GENERATE = "generate"
    REPLICA = "replica"
    IMPORT_DATASET = "import_dataset"
    TRAIN_TOKENIZER = "train_tokenizer"
    ADD_BASE = "add_base"
    EXPORT = "export"
    LOGLIKELIHOOD = "loglikelihood"


QUEUE_OF: dict[JobKind, str] = {
    JobKind.TRAIN: "train",
    JobKind.EVALUATE: "eval",
    JobKind.GENERATE: "eval",
    JobKind.LOGLIKELIHOOD: "eval",
    JobKind.REPLICA: "serve",
    JobKind.IMPORT_DATASET: "cpu",
    JobKind.TRAIN_TOKENIZER: "cpu",
    JobKind.ADD_BASE: "cpu",
    JobKind.EXPORT: "cpu",
}
QUEUES = ("train", "eval", "serve", "cpu")


def may_follow(before: Status, after: Status) -> bool:
    """Whether a job may go from one status to another."""
    return after in ALLOWED[before]


def restart_delay_s(restarts: int) -> float:
    """Backoff before a replica's next start: 1, 2, 4, ... at most 60 seconds."""
    return min(60.0, 2.0 ** min(restarts, 6))
