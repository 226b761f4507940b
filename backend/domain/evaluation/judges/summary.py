"""The summary of a judgement, as it is stored, printed and drawn. Loads no NumPy: workers and pages read it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypedDict

from pydantic import field_validator, model_validator

from backend.domain.validation import ReadRecord


class Figure(ReadRecord):
    """A number with its standard error, interval and count; made of an `Estimate`. An interval without a width, where
    no resample differs, is None; an older version stored it.
    """

    value: float
    stderr: float | None
    interval: tuple[float, float] | None
    n: int
    method: str

    @model_validator(mode="before")
    @classmethod
    def _read_estimate(cls, given: Any) -> Any:
        if not hasattr(given, "low"):
            return given
        return {
            "value": given.value,
            "stderr": given.stderr,
            "interval": None if given.low is None or given.high is None else (given.low, given.high),
            "n": given.n,
            "method": given.method,
        }

    @field_validator("interval")
    @classmethod
    def _drop_without_width(cls, interval: tuple[float, float] | None) -> tuple[float, float] | None:
        return None if interval is None or math.isclose(*interval, abs_tol=1e-9) else interval


class JudgeSummary(ReadRecord):
    """A judgement as a whole. `scores` by group (rubric) or the first answers' win rate; a figure is None where the
    data give none.

    `position_bias` is the share of decisive verdicts for the answer shown first (0.5 is none), `length_bias` that for
    the longer answer, or the rank correlation of score and length. `kappa` is Cohen's with people's votes. `reason` is
    the most frequent one of questions that got no answer.
    """

    items: int
    missing: int
    failed: int
    scores: dict[str, Figure]
    label_shares: dict[str, Figure]
    tie_rate: Figure | None
    inconsistent: Figure | None
    position_bias: Figure | None
    length_bias: Figure | None
    canary: Figure | None
    trusted: bool | None
    kappa: Figure | None
    human_votes: int
    prompt_tokens: int
    completion_tokens: int
    price: float | None
    reason: str = ""


class VerdictRecord(TypedDict):
    """The verdict on one item with its texts. `verdict`: None is missing; `orders` and `judge` by the order of a pair's
    answers, `human` are people's votes.
    """

    id: str
    prompt: str
    answers: list[str]
    groups: list[str]
    verdict: float | str | None
    orders: Sequence[str | None] | None
    inconsistent: bool
    human: Sequence[str | float]
    judge: list[str | None]
