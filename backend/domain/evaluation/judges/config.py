"""Questions to a judge: criteria, scale or labels, and the answers that it judges."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from backend.domain.fields import OPTION_ONLY, setting, when

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

    mode: Literal["rubric", "pairwise"] = setting(
        "rubric", "Mode", "Grade each answer, or compare two answers of a prompt.", shown=OPTION_ONLY
    )
    criteria: str = setting(
        DEFAULT_CRITERIA, "Criteria", "What the judge looks for.", min_length=1, max_length=8000, lines=5
    )
    low: int = setting(1, "Lowest score", "Rubric: lowest score.", ge=-1000, le=1000, shown=OPTION_ONLY)
    high: int = setting(10, "Highest score", "Rubric: highest score.", ge=-1000, le=1000, shown=OPTION_ONLY)
    labels: tuple[str, ...] = setting(
        (),
        "Labels",
        "Rubric: labels in place of a score, best first. Empty: a score from 1 to 10.",
        max_length=20,
        used=(when("mode", "rubric"),),
        empty="good, bad",
    )
    explain: bool = setting(True, "Reasons", "Let the judge give reasons before its verdict.", shown=OPTION_ONLY)
    max_tokens: int = setting(512, "Max new tokens", "Longest answer of the judge, in tokens.", ge=8, le=8192)
    canaries: int = setting(
        20, "Canaries", "Prompts that are also judged with an answer that says nothing.", ge=0, le=1000
    )
    input_price: float | None = setting(
        None, "Price of prompt tokens", "US dollars for a million prompt tokens.", ge=0, shown=OPTION_ONLY
    )
    output_price: float | None = setting(
        None,
        "Price of answer tokens",
        "US dollars for a million tokens of the judge's answers.",
        ge=0,
        shown=OPTION_ONLY,
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
