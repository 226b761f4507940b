"""The engine of reward models: it scores answers to prompts and writes none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backend.domain.serving.protocol import SamplingParams
from backend.errors import InvalidInput
from jobs.serving.detokenize import TokenDecoder
from jobs.serving.engine import FIRST, Choice, EngineStats, Handle, OnEvent, read_limits


class ScoringEngine:
    """Implements Engine for a network with a scoring head. Prompts are read by a PromptReader, beside it."""

    name = "scoring"

    def __init__(self, network: Any, tokenizer: TokenDecoder) -> None:
        self.limits = read_limits(network, tokenizer)
        self.context_length = self.limits.context_length
        self._is_closed = False

    def check_room(self, tenant: str = "") -> None:
        """Refuse nothing: prompts wait for each other."""

    def submit(
        self, ids: Sequence[int], params: SamplingParams, on_event: OnEvent, *, choice: Choice = FIRST
    ) -> Handle:
        """Raise InvalidInput."""
        raise writes_no_text()

    def is_waiting(self, handle: Handle) -> bool:
        """Return False: there is no queue."""
        return False

    def stats(self) -> EngineStats:
        """Return counters of nothing."""
        return EngineStats(
            running=0, waiting=0, tokens_per_second=0.0, steps=0, generated_tokens=0, last_token_age_s=None
        )

    def is_alive(self) -> bool:
        """Return False once closed."""
        return not self._is_closed

    def close(self) -> None:
        """End."""
        self._is_closed = True


def writes_no_text() -> InvalidInput:
    """Return the error of a request that a reward model can't answer."""
    return InvalidInput(
        "This endpoint serves a reward model, which scores answers and writes none.",
        remedy="Call /v1/score or /v1/rerank.",
        field="model",
    )


def scores_none() -> InvalidInput:
    """Return the error of a request that a network which writes text can't answer."""
    return InvalidInput(
        "This endpoint serves a model that writes text.",
        remedy="Deploy a checkpoint of a run with objective reward.",
        field="model",
    )
