"""Figures, tool calls and tokens of a message, stored beside its text."""

from __future__ import annotations

from typing import Any, NotRequired

from typing_extensions import TypedDict

from backend.domain.serving.chat_settings import SideSettings
from backend.domain.validation import StoredRecord


class CalledTool(TypedDict):
    """A call of a tool as it arrived: `arguments` is JSON, which may be cut off."""

    id: str
    name: str
    arguments: str


class AnswerToken(TypedDict):
    """A token of an answer with its log-probability and the likeliest ones. `bytes`: of part of a character."""

    text: str
    logprob: float | None
    top: list[tuple[str, float | None]]
    bytes: NotRequired[list[int]]


class AnswerUsage(StoredRecord):
    """Figures of an answer, how it ended, and the tools that it calls; of a tool's result, which call it answers.

    `blind`: not shown before the vote. `own`: settings that this answer alone had of those side by side. `left_out`:
    turns that did not fit the context. `request_id` is the gateway's. `cost_usd` and `canary`, the revision that
    answered in place of the stable one, are added when it is read.
    """

    blind: bool = False
    own: SideSettings | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    left_out: int = 0
    ttft_ms: float | None = None
    tok_per_sec: float | None = None
    total_ms: float | None = None
    cost_usd: float | None = None
    canary: str | None = None
    request_id: str | None = None
    finish_reason: str | None = None
    error: str | None = None
    error_code: str | None = None
    reasoning: str = ""
    tool_calls: tuple[CalledTool, ...] = ()
    tool_call_id: str | None = None
    tool: str | None = None

    @property
    def given(self) -> dict[str, Any]:
        """Return what was decided before the answer began, and stays."""
        return {name: getattr(self, name) for name in ("blind", "own") if getattr(self, name)}
