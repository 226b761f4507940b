"""Payload and result of a load test."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from backend.domain.jobs.records import FrozenRecord, JobResult, Payload
from backend.domain.jobs.states import JobKind, StopRequest
from backend.domain.serving.load import LoadConfig, Side
from backend.domain.validation import ReadRecord


class LoadTarget(FrozenRecord):
    """The address of a gateway (an OpenAI-compatible API) or of a replica, and its secret."""

    kind: Side
    url: str
    model: str
    token: str = Field(default="", repr=False)


class LoadTestPayload(Payload):
    """Load an endpoint. `targets` are filled in when the job starts, and hold secrets that are never stored.

    `uses_key`: the gateway is loaded, and asks for a key.
    """

    job_kind = JobKind.LOAD_TEST
    endpoint: str
    endpoint_id: str
    deployment_id: str
    config: LoadConfig
    uses_key: bool = False
    targets: tuple[LoadTarget, ...] = ()


class LoadOutcome(ReadRecord):
    """Levels of a load test: per number of users a summary per target, and the gateway's overhead."""

    replicas: int = 0
    levels: list[dict[str, Any]] = Field(default_factory=list)
    stopped: StopRequest | None = None


class LoadTestResult(JobResult, LoadOutcome):
    """Outcome of a load test's job. With the job only `load_test_id` is stored, the levels are a row of their own."""

    job_kind = JobKind.LOAD_TEST
    load_test_id: str | None = None
