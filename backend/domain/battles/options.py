"""Options of a rating: the one schema behind the form, the command line and a stored board."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from backend.domain.battles.clusters import ClusterBy
from backend.domain.battles.likelihoods import Method
from backend.domain.fields import OPTION_ONLY, setting
from backend.domain.validation import read_values

Control = Literal["length", "style"]


class RatingOptions(BaseModel):
    """Choices that turn votes into ratings. The same votes, options and seed give the same table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Method = setting(
        "bradley_terry",
        "Method",
        "Bradley-Terry gives half credit for a tie; Davidson and Rao-Kupper model ties, on scales of their own.",
        shown=OPTION_ONLY,
    )
    cluster_by: ClusterBy = setting(
        "two_way",
        "Clusters",
        "Votes that depend on each other: on the same prompt, by the same rater, or both.",
        shown=OPTION_ONLY,
    )
    control: tuple[Control, ...] = setting(
        (),
        "Hold equal",
        "Features of the answers to hold equal: length; style is headers, lists and bold.",
        shown=OPTION_ONLY,
    )
    reweight: bool = setting(
        False, "Reweight", "Weight votes as if each pair had been drawn equally often.", shown=OPTION_ONLY
    )
    category: str | None = setting(None, "Category", "Only votes on prompts of this category.", shown=OPTION_ONLY)
    level: float = setting(0.95, "Level", "Level of the intervals.", gt=0.0, lt=1.0, shown=OPTION_ONLY)
    anchor: str | None = setting(
        None,
        "Anchor",
        "Fix this contestant at the anchor rating; without an anchor the mean is fixed.",
        shown=OPTION_ONLY,
    )
    anchor_rating: float = setting(
        1000.0,
        "Rating of the anchor",
        "Rating of the anchor; without an anchor the mean is fixed.",
        allow_inf_nan=False,
        shown=OPTION_ONLY,
    )
    seed: int = Field(default=0, ge=0, description="Seed of the draws behind the rank ranges.")
    num_draws: int = Field(default=2000, ge=10, le=100_000, description="Draws behind the rank ranges.")

    @field_validator("control")
    @classmethod
    def _once_each(cls, value: tuple[Control, ...]) -> tuple[Control, ...]:
        return tuple(name for name in ("length", "style") if name in value)

    @classmethod
    def of(cls, **values: Any) -> RatingOptions:
        """Build options. Raises InvalidInput naming the field, the value and what it may be."""
        return read_values(cls, values, remedy="Change the option.")
