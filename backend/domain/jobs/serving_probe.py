"""Payload and result of a serving probe: how fast one replica of a checkpoint answers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from backend.domain.jobs.records import JobResult, Payload
from backend.domain.jobs.states import JobKind, StopRequest
from backend.domain.serving.precision import Precision, PrecisionCheck
from backend.domain.validation import ReadRecord


class ServingProbePayload(Payload):
    """Measure how fast one replica of a checkpoint answers, in each precision with each number of users in turn."""

    job_kind = JobKind.SERVING_PROBE
    checkpoint: str
    checkpoint_id: str
    threads: int = Field(default=1, ge=1)
    device: Literal["auto", "cpu", "gpu"] = "auto"
    engine: Literal["auto", "batching", "serial"] = "auto"
    users: tuple[int, ...] = (1, 8, 32)
    precisions: tuple[Precision, ...] = ("float32",)
    prompt_tokens: int = Field(default=64, ge=1)
    new_tokens: int = Field(default=32, ge=2)


class ServingLoad(ReadRecord):
    """Speed with a number of users who each wait for their answer before they ask again.

    `tokens_per_s` are generated tokens of all users together; `ttft_ms` is the median time to the first token, None for
    no answer.
    """

    users: int
    tokens_per_s: float
    ttft_ms: float | None
    ttft_p95_ms: float | None = None
    answers: int
    precision: Precision = "float32"


class ServingProbeResult(JobResult):
    """Speed of one replica by number of users. `memory_bytes` is the process's peak; `prompt_tokens` and `new_tokens`
    are of a request. `precision_check` is the measured difference of int8 from float32, where both were probed.
    """

    job_kind = JobKind.SERVING_PROBE
    device: str
    device_kind: Literal["cpu", "gpu"]
    engine: str
    dtype: str
    threads: int
    load_s: float
    memory_bytes: int | None = None
    prompt_tokens: int
    new_tokens: int
    loads: list[ServingLoad]
    precision_check: PrecisionCheck | None = None
    stopped: StopRequest | None = None
