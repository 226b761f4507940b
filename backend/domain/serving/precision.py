"""Numeric precision of a deployment, and its price in quality."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from backend.domain.wording import percent
from backend.errors import JobFailed

Precision = Literal["float32", "bfloat16", "int8"]


class PrecisionCheck(BaseModel):
    """Measured difference of a network in fewer bits from its float32 original, on texts that the original wrote.

    `perplexity_ratio` is that over float32, expected over the original's next tokens; `greedy_agreement` is the share
    of positions where both prefer the same token.
    """

    model_config = ConfigDict(frozen=True)

    precision: str
    perplexity_ratio: float = Field(gt=0)
    greedy_agreement: float = Field(ge=0, le=1)
    num_tokens: int
    num_layers: int

    def describe(self) -> str:
        """Return the check as one line."""
        return (
            f"{self.precision}: perplexity x {self.perplexity_ratio:.3f}, same token preferred at "
            f"{percent(self.greedy_agreement, digits=1)} of {self.num_tokens} positions"
        )

    def require(self, *, max_perplexity_ratio: float) -> None:
        """Raise JobFailed if the perplexity rose by more than allowed."""
        if self.perplexity_ratio > max_perplexity_ratio:
            raise JobFailed(
                f"In {self.precision} this model's perplexity is {self.perplexity_ratio:.3f} times that in float32"
                f" (limit {max_perplexity_ratio:g}); it prefers the same token at"
                f" {percent(self.greedy_agreement, digits=1)} of positions.",
                remedy="Deploy with precision float32, or raise max_perplexity_ratio.",
            )
