"""Evidence of a decision on an alias."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class PromotionVerdict(BaseModel):
    """A campaign's verdict on a checkpoint against another contestant at the time of the decision."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    opponent: str
    outcome: str
    for_these_raters: str = ""
    sentence: str
    e_value: float | None = None
    rater_e_value: float | None = None
    threshold: float | None = None
    votes: int = 0
    prompts: int = 0
    raters: int = 0


class GateOpinion(BaseModel):
    """A gate's newest verdict on the checkpoint."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    gate: str
    verdict: str
    reason: str = ""
    result_id: str = ""


class PromotionEvidence(BaseModel):
    """The verdict and the gates' opinions, and `against`: sentences that do not support a promotion."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    verdict: PromotionVerdict | None = None
    gates: tuple[GateOpinion, ...] = ()
    against: tuple[str, ...] = ()

    def dump(self) -> dict[str, Any]:
        """Return the stored form: the fields that were set; a rollback needs no evidence."""
        return self.model_dump(mode="json", include=self.model_fields_set)
