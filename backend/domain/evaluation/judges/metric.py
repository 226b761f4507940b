"""A judge as a metric of a task: who judges, by what, and its score as a share of the scale. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from backend.domain.evaluation.judges.config import DEFAULT_CRITERIA, JudgeConfig
from backend.domain.validation import field_at_fault, validation_message
from backend.errors import InvalidInput

JUDGE = "judge"


class JudgeMetric(BaseModel):
    """Options of the metric `judge`: a checkpoint or an endpoint grades each answer by a rubric."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: str = Field(default="", max_length=300, description="Endpoint that judges: its name.")
    checkpoint: str = Field(
        default="", max_length=300, description="Checkpoint that judges, in place of an endpoint: its name."
    )
    criteria: str = Field(
        default=DEFAULT_CRITERIA, min_length=1, max_length=8000, description="What the judge looks for."
    )
    low: int = Field(default=1, ge=-1000, le=1000, description="Lowest score.")
    high: int = Field(default=10, ge=-1000, le=1000, description="Highest score.")
    explain: bool = Field(default=True, description="Let the judge give reasons before its verdict.")
    max_tokens: int = Field(default=512, ge=8, le=8192, description="Longest answer of the judge, in tokens.")

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        if bool(self.endpoint) == bool(self.checkpoint):
            raise ValueError("a judge is an endpoint or a checkpoint: name one of them")
        if self.low >= self.high:
            raise ValueError(f"low is {self.low} and high {self.high}: the scale needs low < high")
        return self

    @property
    def config(self) -> JudgeConfig:
        """The settings of the questions to the judge; it sees no canaries."""
        fields = self.model_dump(include={"criteria", "low", "high", "explain", "max_tokens"})
        return JudgeConfig(mode="rubric", canaries=0, **fields)

    def share(self, score: float) -> float:
        """Return a score as a share of the scale, 0 for the lowest and 1 for the highest.

        Example:
            >>> JudgeMetric(endpoint="chat", low=1, high=5).share(4)
            0.75
        """
        return (score - self.low) / (self.high - self.low)


def read_judge(options: Mapping[str, Any]) -> JudgeMetric:
    """Return the judge that a metric's options describe. Raises InvalidInput naming field, value and cure."""
    try:
        return JudgeMetric.model_validate(dict(options))
    except ValidationError as error:
        where = field_at_fault(error)
        raise InvalidInput(
            f"judge: {validation_message(error, JudgeMetric)}.",
            remedy="Write `judge: {endpoint: NAME, criteria: ...}`.",
            field=f"metrics.{where}" if where else "metrics",
        ) from None
