"""Config of a campaign, and prompts from dataset rows. Pure rules, no I/O."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from backend.domain.validation import field_at_fault, validation_message
from backend.errors import InvalidInput

LONGEST_CATEGORY = 80
"""Characters of a prompt's category."""

Messages = list[dict[str, str]]


class Dimension(BaseModel):
    """A part of the rubric, on which a rater compares the answers separately."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(
        min_length=1, max_length=40, pattern=r"^[^\s:]+$", description="Key of the dimension, such as `accuracy`."
    )
    question: str = Field(default="", max_length=200, description="Question shown to raters; the name when empty.")


class GoldPair(BaseModel):
    """A prompt with an answer that is known to be better and one that is known to be worse, to check raters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str | tuple[dict[str, str], ...] = Field(
        description="Text, or messages {role, content} that end with the user's turn."
    )
    better: str = Field(min_length=1, description="The better answer.")
    worse: str = Field(min_length=1, description="The worse answer.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if text_hash(self.better) == text_hash(self.worse):
            raise ValueError("the better and the worse answer are equal")
        return self

    @property
    def messages(self) -> Messages:
        """The prompt as messages."""
        return (
            [{"role": "user", "content": self.prompt}]
            if isinstance(self.prompt, str)
            else [dict(turn) for turn in self.prompt]
        )


class CampaignConfig(BaseModel):
    """Prompts, sampling, pairing, ballot and stopping rule of a campaign. The same `seed` gives the same prompts and
    completions.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_prompts: int = Field(
        default=30,
        ge=1,
        le=5000,
        description="Prompts drawn from the dataset. More prompts are worth more than more votes per prompt.",
    )
    allow_train: bool = Field(default=False, description="Also draw prompts that the contestants may have trained on.")
    category_column: str = Field(
        default="", max_length=80, description="Column of the dataset that holds each prompt's category."
    )
    system: str = Field(
        default="", max_length=20_000, description="System text in front of every prompt that has none."
    )
    answers_per_prompt: int = Field(
        default=1, ge=1, le=8, description="Answers that each contestant gives to a prompt."
    )
    max_tokens: int = Field(default=96, ge=1, le=4096, description="Longest completion, in tokens.")
    temperature: float = Field(default=0.8, ge=0.0, le=2.0, description="0 always takes the likeliest token.")
    top_p: float = Field(default=0.95, gt=0.0, le=1.0)
    seed: int = Field(default=1, ge=0)
    pairing: Literal["information", "uniform"] = Field(
        default="information",
        description="Draw pairs whose rating difference is least certain more often, or all pairs alike.",
    )
    overlap_share: float = Field(
        default=0.2, ge=0.0, le=1.0, description="Share of prompts and pairs that go to several raters."
    )
    overlap_raters: int = Field(default=3, ge=2, le=20, description="Raters of such a prompt and pair.")
    repeat_share: float = Field(
        default=0.0, ge=0.0, le=0.5, description="Share of battles repeated to the same rater with sides swapped."
    )
    gold: tuple[GoldPair, ...] = Field(
        default=(), max_length=500, description="Pairs with a known better answer, to check raters."
    )
    gold_share: float = Field(default=0.1, ge=0.0, le=0.5, description="Share of battles that are gold pairs.")
    votes_per_rater: int = Field(default=60, ge=1, le=10_000, description="A rater's ballot ends after so many votes.")
    votes_per_minute: int = Field(default=60, ge=1, le=600, description="Votes that a rater may cast in a minute.")
    question: str = Field(
        default="Which answer is better?", min_length=1, max_length=200, description="Question above the answers."
    )
    dimensions: tuple[Dimension, ...] = Field(
        default=(), max_length=8, description="Parts of the rubric, compared separately."
    )
    reasons: tuple[str, ...] = Field(default=(), max_length=12, description="Reasons that a rater can tick.")
    note: bool = Field(default=True, description="Offer a free note.")
    rewrite: bool = Field(default=False, description="Offer to rewrite the better answer.")
    rating: Literal["none", "thumbs", "stars"] = Field(
        default="none", description="Rate single answers by thumbs or by 1 to 5 stars, without comparing two."
    )
    break_after_min: int = Field(
        default=20, ge=0, le=240, description="Minutes after which a rater is reminded of a break; 0 never."
    )
    masked_words: tuple[str, ...] = Field(
        default=(), max_length=200, description="Names that answers must not reveal, besides the contestants'."
    )
    smallest_gap: float = Field(
        default=35.0, gt=0, le=800, description="Smallest gap worth acting on, in rating points (35 is 55 wins in 100)."
    )
    stop_votes: int | None = Field(default=None, ge=1, description="Close the campaign after so many votes.")
    stop_at: AwareDatetime | None = Field(default=None, description="Close the campaign at this time.")
    stop_on_verdict: bool = Field(default=False, description="Close the campaign once every pair has a verdict.")

    @classmethod
    def of(cls, **values: Any) -> CampaignConfig:
        """Build a config. Raises InvalidInput naming the field, the value and what it may be."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise InvalidInput(
                validation_message(error, cls), remedy="Change the setting.", field=field_at_fault(error)
            ) from error

    @property
    def is_single(self) -> bool:
        """Return whether raters grade single answers and compare none."""
        return self.rating != "none"

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [dimension.name for dimension in self.dimensions]
        if len(set(names)) < len(names):
            raise ValueError("two dimensions have the same name")
        if any(not reason.strip() or len(reason) > 60 for reason in self.reasons):
            raise ValueError("a reason needs 1 to 60 characters")
        return self


def prompt_messages(row: dict[str, Any]) -> Messages | None:
    """Return a row's prompt as messages that end with the user's turn; None if it has none.

    Reads `messages` (up to the last user turn), `prompt` (text or messages), `question`, or `instruction` with `input`.
    """
    for key in ("messages", "prompt"):
        value = row.get(key)
        if isinstance(value, list):
            return _until_last_user(value)
    text = row.get("prompt") or row.get("question") or row.get("instruction")
    if not isinstance(text, str) or not text.strip():
        return None
    extra = row.get("input")
    if not row.get("prompt") and isinstance(extra, str) and extra.strip():
        text = f"{text}\n\n{extra}"
    return [{"role": "user", "content": text}]


def _until_last_user(turns: Iterable[Any]) -> Messages | None:
    messages: Messages = []
    for turn in turns:
        if not isinstance(turn, dict) or "role" not in turn or "content" not in turn:
            continue
        if turn["role"] == "tool" or turn.get("tool_calls"):
            break  # contestants get no tools, so the prompt ends before the first tool call
        messages.append({"role": str(turn["role"]), "content": str(turn["content"])})
    while messages and messages[-1]["role"] != "user":
        messages.pop()
    return messages or None


def with_system(messages: Messages, system: str) -> Messages:
    """Return a prompt with the system text in front, unless it has one of its own or the text is empty."""
    if not system.strip() or (messages and messages[0]["role"] == "system"):
        return messages
    return [{"role": "system", "content": system}, *messages]


def content_hash(messages: Messages) -> str:
    """Return the identity of a prompt: equal for equal roles, and texts that differ only in space at the ends."""
    turns = [[message["role"], message["content"].strip()] for message in messages]
    return hashlib.sha256(json.dumps(turns, ensure_ascii=False).encode()).hexdigest()


def text_hash(text: str) -> str:
    """Return the identity of a completion: equal for texts that differ only in space at the ends."""
    return hashlib.sha256(text.strip().encode("utf-8", "replace")).hexdigest()


def refuse_revealing_name(name: str, contestants: Iterable[str]) -> None:
    """Raise InvalidInput if a campaign's name, which raters may see, contains a contestant's name."""
    for contestant in contestants:
        if len(contestant) > 2 and contestant.lower() in name.lower():
            raise InvalidInput(
                f"The campaign's name tells raters that “{contestant}” is a contestant.",
                remedy="Choose a name without contestants in it.",
                field="name",
            )
