"""Config of an inspection: of a text (losses, attention, logit lens, perhaps of two checkpoints) or of the weights."""

from __future__ import annotations

import hashlib
import json
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from backend.domain.validation import is_stored

INSPECTION_VERSION = 1
"""Bumped whenever an inspection's numbers or files change, so that stale results are not reused."""
MAX_TOKENS = 256
"""Tokens of a text that are analyzed, the begin token included."""
MAX_CHARACTERS = 20_000
NUM_ALTERNATIVES = 10


class InspectedMessage(BaseModel):
    """One message of a conversation, rendered with the checkpoint's chat template."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "user", "assistant"] = "user"
    content: str = Field(max_length=MAX_CHARACTERS)


class InspectionConfig(BaseModel):
    """Input of an inspection: a raw text, a conversation, or (neither given) the weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str = Field(default="", max_length=MAX_CHARACTERS, description="Raw text, after the begin token.")
    messages: tuple[InspectedMessage, ...] = Field(
        default=(), max_length=64, description="Conversation, rendered with the chat template."
    )

    @model_validator(mode="after")
    def _check_parts(self, info: ValidationInfo) -> Self:
        if is_stored(info):
            return self
        if self.text and self.messages:
            raise ValueError("give a text or a conversation, not both")
        if any("\x00" in part for part in (self.text, *(message.content for message in self.messages))):
            raise ValueError("the text holds a NUL character, which can't be stored")
        return self

    @property
    def of_text(self) -> bool:
        """Return whether a text or a conversation is inspected, rather than the weights."""
        return bool(self.text or self.messages)


def inspection_fingerprint(config: InspectionConfig, *, subject: str, other: str | None) -> str:
    """Return the SHA-256 that equal requests share. `subject` and `other` identify the weights."""
    request = {"version": INSPECTION_VERSION, "subject": subject, "other": other, **config.model_dump(mode="json")}
    return hashlib.sha256(json.dumps(request, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
