"""Options of a deployment: one class behind the form, the command line and the stored row."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from backend.domain.serving.autoscaling import ScalingRules
from backend.domain.serving.memory import MAX_RUNNING
from backend.domain.serving.precision import Precision
from backend.errors import InvalidInput

MAX_REPLICAS = 64
SLEEP_MINUTES = 15.0


class RoutingPolicy(StrEnum):
    """The sharing of requests between the replicas of an endpoint."""

    LEAST_OUTSTANDING = "least_outstanding"
    POWER_OF_TWO = "power_of_two"
    SESSION_AFFINITY = "session_affinity"
    ROUND_ROBIN = "round_robin"


class DeploymentOptions(BaseModel):
    """The options of a deployment. Fields of its config that belong to others, such as its requirements, are
    ignored.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    threads: int = Field(default=1, ge=1, le=256, description="CPU threads of a replica.")
    device: Literal["auto", "cpu", "gpu"] = Field(default="auto", description="Where replicas run.")
    engine: Literal["auto", "batching", "serial"] = Field(default="auto", description="Engine of the replicas.")
    precision: Precision = Field(
        default="float32", description="Weights on CPUs: float32, or bfloat16 or int8 once checked."
    )
    max_perplexity_ratio: float = Field(
        default=1.05, ge=1, le=100, description="Perplexity over that in float32 that is still deployed."
    )
    draft: str | None = Field(
        default=None, max_length=64, description="Smaller checkpoint, by id, that drafts tokens on CPUs; exact."
    )
    context: int | None = Field(
        default=None, ge=16, le=10**7, description="Tokens of a prompt with its answer; the network's by default."
    )
    max_running: int = Field(default=MAX_RUNNING, ge=1, le=1024, description="Requests that a replica answers at once.")
    max_waiting: int = Field(
        default=64, ge=0, le=10_000, description="Requests that wait at a replica before it refuses more."
    )
    queue_timeout_s: float = Field(
        default=60.0, gt=0, le=3600, description="Seconds that a request may wait for its first step."
    )
    answer_limit_s: float = Field(
        default=600.0, gt=0, le=86_400, description="Seconds that an answer may take; a drain waits as long."
    )
    policy: RoutingPolicy = Field(
        default=RoutingPolicy.LEAST_OUTSTANDING, description="How requests are shared between replicas."
    )
    surge: int = Field(
        default=1,
        ge=0,
        le=8,
        description="Replicas above the number during a rollout; 0 stops one before it starts one.",
    )
    min_replicas: int = Field(
        default=1, ge=0, le=MAX_REPLICAS, description="Fewest replicas; 0 lets the endpoint sleep while idle."
    )
    max_replicas: int | None = Field(
        default=None, ge=1, le=MAX_REPLICAS, description="Most replicas; without it their number is fixed."
    )
    target_queue_s: float = Field(
        default=2.0, gt=0, le=600, description="Wait of a request above which replicas are added."
    )
    cool_down_s: float = Field(
        default=300.0, gt=0, le=86_400, description="Seconds without a queue before a replica is taken away."
    )
    sleep_after_minutes: float | None = Field(
        default=None, gt=0, le=43_200, description="Minutes without a request before it sleeps."
    )

    @model_validator(mode="after")
    def _in_order(self) -> DeploymentOptions:
        if self.max_replicas is not None and self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas is {self.max_replicas}, below min_replicas, {self.min_replicas}")
        return self

    @property
    def scaling(self) -> ScalingRules:
        """Return the rules of the number of replicas. With `min_replicas` 0 an endpoint sleeps, after 15 minutes where
        none are given.
        """
        minutes = self.sleep_after_minutes or (SLEEP_MINUTES if self.min_replicas == 0 else None)
        return ScalingRules(
            least=max(1, self.min_replicas),
            most=self.max_replicas,
            target_queue_s=self.target_queue_s,
            cool_down_s=self.cool_down_s,
            sleep_after_s=None if minutes is None else 60 * minutes,
            places=self.max_running,
        )

    @staticmethod
    def read(config: Mapping[str, Any]) -> DeploymentOptions:
        """Read the options in a config. Raises InvalidInput that names the field."""
        try:
            return DeploymentOptions.model_validate(config)
        except ValidationError as error:
            first = error.errors()[0]
            if not first["loc"]:
                raise InvalidInput(f"{first['msg'].removeprefix('Value error, ')}.", field="max_replicas") from error
            field = str(first["loc"][0])
            raise InvalidInput(f"{field} = {first['input']!r}: {first['msg']}.", field=field) from error

    def changed(self) -> dict[str, Any]:
        """Return the options that differ from their defaults, as a config stores them."""
        return self.model_dump(mode="json", exclude_defaults=True)
