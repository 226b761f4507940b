"""Evidence of a decision on an alias."""

from __future__ import annotations

from backend.domain.validation import ReadRecord, StoredRecord


class PromotionVerdict(ReadRecord):
    """A campaign's verdict on a checkpoint against another contestant at the time of the decision."""

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


class GateOpinion(ReadRecord):
    """A gate's newest verdict on the checkpoint."""

    gate: str
    verdict: str
    reason: str = ""
    result_id: str = ""


class PromotionEvidence(StoredRecord):
    """The verdict and the gates' opinions, and `against`: sentences that do not support a promotion. A
    rollback needs no evidence.
    """

    verdict: PromotionVerdict | None = None
    gates: tuple[GateOpinion, ...] = ()
    against: tuple[str, ...] = ()
