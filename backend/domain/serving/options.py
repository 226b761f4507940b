"""Options of a deployment: one class behind the form, the command line and the stored row."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from backend.domain.serving.memory import MAX_RUNNING
from backend.domain.serving.precision import Precision
from backend.errors import InvalidInput


class Policy(StrEnum):
    """The sharing of requests between the replicas of an endpoint."""

    LEAST_OUTSTANDING = "least_outstanding"
    POWER_OF_TWO = "power_of_two"
    SESSION_AFFINITY = "session_affinity"
    ROUND_ROBIN = "round_robin"


class DeploymentOptions(BaseModel):
    """The options of a deployment. Fields of its config that belong to others, such as its requirements, are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    threads: int = Field(default=1, ge=1, le=256, description="CPU threads of a replica.")
    device: Literal["auto", "cpu", "gpu"] = Field(default="auto", description="Where replicas run.")
    engine: Literal["auto", "batching", "serial"] = Field(default="auto", description="Engine of the replicas.")
    precision: Precision = Field(default="float32", description="Weights of the linear layers on CPUs: float32, or int8 once checked.")
    max_perplexity_ratio: float = Field(default=1.05, ge=1, le=100, description="Perplexity in int8 over float32 that is still deployed.")
    max_running: int = Field(default=MAX_RUNNING, ge=1, le=1024, description="Requests that a replica answers at once.")
    max_waiting: int = Field(default=64, ge=0, le=10_000, description="Requests that wait at a replica before it refuses more.")
    queue_timeout_s: float = Field(default=60.0, gt=0, le=3600, description="Seconds that a request may wait for its first step.")
    answer_limit_s: float = Field(default=600.0, gt=0, le=86_400, description="Seconds that an answer may take; a drain waits as long.")
    policy: Policy = Field(default=Policy.LEAST_OUTSTANDING, description="How requests are shared between replicas.")
    surge: int = Field(default=1, ge=0, le=8, description="Replicas above the number during a rollout; 0 stops one before it starts one.")

    @staticmethod
    def read(config: Mapping[str, Any]) -> DeploymentOptions:
        """Read the options in a config. Raises InvalidInput that names the field."""
        try:
            return DeploymentOptions.model_validate(config)
        except ValidationError as error:
            first = error.errors()[0]
            field = str(first["loc"][0])
            raise InvalidInput(f"{field} = {first['input']!r}: {first['msg']}.", field=field) from error

    def changed(self) -> dict[str, Any]:
        """Return the options that differ from their defaults, as a config stores them."""
        return self.model_dump(mode="json", exclude_defaults=True)
