"""Questions to a judge: criteria, scale or labels, and the answers that it judges."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

SHOWN_CHARACTERS = 4000
"""Characters of a prompt or an answer that a verdict keeps."""
NULL_ANSWER = "I have nothing to add to this."
"""The answer that says nothing; a judge that prefers it to real answers can't be trusted."""
DEFAULT_CRITERIA = (
    "Judge how helpful, correct and complete the answer is. Neither its length nor its style alone makes an answer"
    " better."
)


class JudgeConfig(BaseModel):
    """Settings of a judgement."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Literal["rubric", "pairwise"] = Field(
        default="rubric", description="Grade each answer, or compare two answers of a prompt."
    )
    criteria: str = Field(
        default=DEFAULT_CRITERIA, min_length=1, max_length=8000, description="What the judge looks for."
    )
    low: int = Field(default=1, ge=-1000, le=1000, description="Rubric: lowest score.")
    high: int = Field(default=10, ge=-1000, le=1000, description="Rubric: highest score.")
    labels: tuple[str, ...] = Field(
        default=(), max_length=20, description="Rubric: labels in place of a score; the first is the best."
    )
    explain: bool = Field(default=True, description="Let the judge give reasons before its verdict.")
    max_tokens: int = Field(default=512, ge=8, le=8192, description="Longest answer of the judge, in tokens.")
    canaries: int = Field(
        default=20, ge=0, le=1000, description="Prompts on which the judge also sees an answer that says nothing."
    )
    input_price: float | None = Field(default=None, ge=0, description="US dollars for a million prompt tokens.")
    output_price: float | None = Field(
        default=None, ge=0, description="US dollars for a million tokens of the judge's answers."
    )

    @model_validator(mode="after")
    def _check_scale(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low is {self.low} and high {self.high}: the scale needs low < high")
        if len({label.casefold() for label in self.labels}) < len(self.labels) or len(self.labels) == 1:
            raise ValueError(f"labels are {list(self.labels)}: give at least two different labels, or none")
        return self


class JudgeItem(BaseModel):
    """A prompt with one answer (rubric) or two (pairwise), and what people said about it.

    `human` holds votes A, B, TIE or BOTH_BAD, or scores, or labels, one for each person. `group` names whose answer it
    is, such as a checkpoint; `group_b` that of the second.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1, max_length=200)
    prompt: str
    answer: str
    answer_b: str | None = None
    reference: str = ""
    human: tuple[str | float, ...] = ()
    group: str = ""
    group_b: str = ""
