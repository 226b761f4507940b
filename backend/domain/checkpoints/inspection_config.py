"""What an inspection of a checkpoint is asked, and when two questions are the same. Pure rules, no I/O.

What comes out is called a reading: of a text (token losses, attention, logit lens, a second checkpoint beside it) or of the weights.
"""

from __future__ import annotations

import hashlib
import json
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

READING_VERSION = 1
"""Raised whenever a reading's numbers or files change, so that an old answer is never given for a new question."""
MAX_TOKENS = 256
"""Tokens of a text that are read, the begin token included; what follows is left out, and it is said so."""
MAX_CHARACTERS = 20_000
NUM_ALTERNATIVES = 10


class ChatMessage(BaseModel):
    """One turn of a conversation that is read through the checkpoint's chat template."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "user", "assistant"] = "user"
    content: str = Field(max_length=MAX_CHARACTERS)


class ReadingConfig(BaseModel):
    """What is read: a text as it stands, a conversation through the chat template, or (neither given) the weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str = Field(default="", max_length=MAX_CHARACTERS, description="Read as it stands, after the begin token.")
    messages: tuple[ChatMessage, ...] = Field(default=(), max_length=64, description="Read through the chat template.")

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        if self.text and self.messages:
            raise ValueError("give a text or a conversation, not both")
        if any("\x00" in part for part in (self.text, *(message.content for message in self.messages))):
            raise ValueError("the text holds a NUL character, which can't be stored")
        return self

    @property
    def of_text(self) -> bool:
        """Whether a text or a conversation is read, rather than the weights."""
        return bool(self.text or self.messages)


def reading_fingerprint(config: ReadingConfig, *, subject: str, other: str | None) -> str:
    """Return the SHA-256 of a question: equal fingerprints have equal answers. `subject` and `other` say whose weights they are."""
    asked = {"version": READING_VERSION, "subject": subject, "other": other, **config.model_dump(mode="json")}
    return hashlib.sha256(json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
