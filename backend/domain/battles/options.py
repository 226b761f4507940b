"""Options of a rating: the one schema behind the form, the command line and a stored board."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from backend.domain.battles.clusters import ClusterBy
from backend.domain.battles.likelihoods import Method
from backend.domain.validation import field_at_fault, validation_message
from backend.errors import InvalidInput

Control = Literal["length", "style"]


class RatingOptions(BaseModel):
    """Choices that turn votes into ratings. The same votes, options and seed give the same table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Method = Field(
        default="bradley_terry",
        description=(
            "Bradley-Terry gives half credit for a tie; Davidson and Rao-Kupper model ties, on scales of their own."
        ),
    )
    cluster_by: ClusterBy = Field(
        default="two_way",
        description="Votes that depend on each other: on the same prompt, by the same rater, or both.",
    )
    control: tuple[Control, ...] = Field(
        default=(), description="Features of the answers to hold equal: length; style is headers, lists and bold."
    )
    reweight: bool = Field(default=False, description="Weight votes as if each pair had been drawn equally often.")
    category: str | None = Field(default=None, description="Only votes on prompts of this category.")
    level: float = Field(default=0.95, gt=0.0, lt=1.0, description="Level of the intervals.")
    anchor: str | None = Field(
        default=None, description="Fix this contestant at the anchor rating; without an anchor the mean is fixed."
    )
    anchor_rating: float = Field(default=1000.0, allow_inf_nan=False)
    seed: int = Field(default=0, ge=0, description="Seed of the draws behind the rank ranges.")
    num_draws: int = Field(default=2000, ge=10, le=100_000, description="Draws behind the rank ranges.")

    @field_validator("control")
    @classmethod
    def _once_each(cls, value: tuple[Control, ...]) -> tuple[Control, ...]:
        return tuple(name for name in ("length", "style") if name in value)

    @classmethod
    def of(cls, **values: Any) -> RatingOptions:
        """Build options. Raises InvalidInput naming the field, the value and what it may be."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise InvalidInput(
                validation_message(error, cls), remedy="Change the option.", field=field_at_fault(error)
            ) from error
