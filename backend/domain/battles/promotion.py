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
    """The verdict, those on the campaign's `others` by their place on the board, the gates' opinions, and `against`:
    sentences that do not support a promotion, because they speak against it or decide nothing. A rollback needs no
    evidence. `rank` of `num_rated` is the checkpoint's own place on the board.
    """

    verdict: PromotionVerdict | None = None
    others: tuple[PromotionVerdict, ...] = ()
    rank: int | None = None
    num_rated: int = 0
    gates: tuple[GateOpinion, ...] = ()
    against: tuple[str, ...] = ()

    @property
    def speaks_against(self) -> bool:
        """Return whether the checkpoint was found worse than a contestant or a gate failed; too little evidence is not
        against it.
        """
        is_worse = any(verdict.outcome == "worse" for verdict in self.verdicts)
        return is_worse or any(gate.verdict == "FAIL" for gate in self.gates)

    @property
    def verdicts(self) -> tuple[PromotionVerdict, ...]:
        """The verdict and those on the others."""
        return (*((self.verdict,) if self.verdict else ()), *self.others)
