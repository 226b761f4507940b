"""Config of a campaign, and prompts from dataset rows. Pure rules, no I/O."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from backend.errors import InvalidInput

Messages = list[dict[str, str]]


class CampaignConfig(BaseModel):
    """Sampling settings and ballot length. The same `seed` gives the same prompts and completions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_prompts: int = Field(
        default=30, ge=1, le=5000, description="Prompts drawn from the dataset. More prompts are worth more than more votes per prompt."
    )
    max_tokens: int = Field(default=96, ge=1, le=4096, description="Longest completion, in tokens.")
    temperature: float = Field(default=0.8, ge=0.0, le=2.0, description="0 always takes the likeliest token.")
    top_p: float = Field(default=0.95, gt=0.0, le=1.0)
    seed: int = Field(default=1, ge=0)
    votes_per_rater: int = Field(default=60, ge=1, le=10_000, description="A rater's ballot ends after so many votes.")
    smallest_gap: float = Field(
        default=35.0, gt=0, le=800, description="Smallest gap worth acting on, in rating points (35 is 55 wins in 100)."
    )


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


def content_hash(messages: Messages) -> str:
    """Return the identity of a prompt: equal for equal roles and texts."""
    return hashlib.sha256(json.dumps([[m["role"], m["content"]] for m in messages], ensure_ascii=False).encode()).hexdigest()


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
