"""Settings of a chat's next turn: endpoints, system text, sampling, schema and tools. The schema behind form, API, preset and row."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from backend.domain.serving.protocol import MAX_SEED, ChatMessage

MAX_COLUMNS = 4
MAX_SYSTEM = 20_000
MAX_JSON = 20_000


class ChatSettings(BaseModel):
    """Settings of a turn. `blind` hides names and figures of side-by-side answers until the vote; `token_view` stores probabilities."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    endpoints: tuple[str, ...] = Field(min_length=1, max_length=MAX_COLUMNS)
    blind: bool = False
    system: str = Field(default="", max_length=MAX_SYSTEM)
    temperature: float = Field(default=0.8, ge=0.0, le=2.0)
    top_p: float = Field(default=0.95, gt=0.0, le=1.0)
    max_tokens: int = Field(default=160, ge=1, le=100_000)
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    stop: tuple[str, ...] = Field(default=(), max_length=4)
    json_schema: str = Field(default="", max_length=MAX_JSON, description="A JSON schema that the answer must follow; empty for free text.")
    tools: str = Field(default="", max_length=MAX_JSON, description="A JSON list of tools in OpenAI's format; empty for none.")
    token_view: bool = False

    @field_validator("endpoints")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(not name or len(name) > 80 for name in value):
            raise ValueError("an endpoint's name has 1 to 80 characters")
        if len(set(value)) != len(value):
            raise ValueError("each endpoint can be chosen once")
        return value

    @field_validator("json_schema")
    @classmethod
    def _is_object(cls, value: str) -> str:
        return _checked_json(value, dict, 'a JSON object, such as {"type": "object"}')

    @field_validator("tools")
    @classmethod
    def _is_list(cls, value: str) -> str:
        return _checked_json(value, list, "a JSON list of tools")

    def body(self, endpoint: str, messages: tuple[ChatMessage, ...]) -> dict[str, Any]:
        """Return the body of `POST /v1/chat/completions` for one endpoint."""
        body: dict[str, Any] = {
            "model": endpoint,
            "messages": [message.as_dict() for message in messages],
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
        }
        optional = {
            "seed": self.seed,
            "stop": list(self.stop) or None,
            "tools": json.loads(self.tools) if self.tools else None,
            "response_format": _response_format(self.json_schema),
            "logprobs": True if self.token_view else None,
            "top_logprobs": 5 if self.token_view else None,
        }
        return body | {name: value for name, value in optional.items() if value is not None}


def _response_format(schema: str) -> dict[str, Any] | None:
    if not schema:
        return None
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": json.loads(schema), "strict": True}}


def _checked_json(text: str, kind: type, what: str) -> str:
    text = text.strip()
    if not text:
        return ""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(value, kind):
        raise ValueError(f"must be {what}")
    return text
