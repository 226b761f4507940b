"""Gauges of machines, what replicas report of themselves, and messages of alerts."""

from __future__ import annotations

from backend.domain.serving.deployment import Moment
from backend.domain.validation import ReadRecord, StoredRecord


class GpuGauges(ReadRecord):
    """A GPU: its utilisation in percent, None if it is not reported, and its memory in bytes."""

    index: str
    name: str = ""
    utilisation_percent: float | None = None
    memory_used_bytes: int = 0
    memory_total_bytes: int = 0


class MachineGauges(StoredRecord):
    """CPU load in percent, memory in bytes and GPUs of a machine, the engines of other projects that its workers can
    start, why they take no jobs, if so, and whether another living worker has the name; falsy if nothing was reported.
    """

    cpu_percent: float | None = None
    cpu_count: int | None = None
    cpu_name: str = ""
    memory_used_bytes: int = 0
    memory_total_bytes: int = 0
    gpus: tuple[GpuGauges, ...] = ()
    engines: tuple[str, ...] = ()
    takes_no_jobs: str = ""
    shares_name: bool = False

    def __bool__(self) -> bool:
        return bool(self.model_fields_set)


class ReplicaLoad(ReadRecord):
    """Open and waiting requests of a replica, the tokens per second that it generates, the used share of its KV cache,
    the longest wait of a request that has not begun, the tokens that its draft proposed and those accepted since its
    start, what its process takes of the machine: cores, memory, and memory of a GPU; its engine, and what computes its
    layers.
    """

    running: int = 0
    waiting: int = 0
    tokens_per_second: float = 0.0
    cache_ratio: float | None = None
    queue_s: float | None = None
    drafted_tokens: int | None = None
    accepted_tokens: int | None = None
    cpu_cores: float | None = None
    memory_bytes: int | None = None
    gpu_memory_bytes: int | None = None
    engine: str = ""
    arithmetic: str = ""


class ReplicaReport(ReplicaLoad, StoredRecord):
    """Last report of a replica, or the last health check of a model on another server: its time and seconds, the
    problem, and the number of checks that have failed in a row.
    """

    checked_at: Moment | None = None
    check_s: float | None = None
    problem: str = ""
    failed_checks: int = 0


class AlertMessage(ReadRecord):
    """Message to a channel on an alert that opened or was resolved; the body of a webhook."""

    state: str
    kind: str
    severity: str
    message: str
    fingerprint: str
    url: str
    at: Moment
