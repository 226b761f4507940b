"""Estimates of a request: the work that it brings to a replica, and what it shares with others of its conversation."""

from __future__ import annotations

from backend.domain.serving.protocol import GenerateRequest, Task

UNSTATED_TOKENS = 512
MAX_COUNTED = 4096
CHARACTERS_PER_TOKEN = 4
SHARED_CHARACTERS = 500


def estimate_tokens(request: GenerateRequest) -> float:
    """Return a request's weight: its prompt's tokens, by length, and the tokens that it may generate."""
    ids = len(request.token_ids or ()) + sum(
        len(prompt) for prompt in request.prompts or () if not isinstance(prompt, str)
    )
    answer = 0 if request.task is not Task.GENERATE else min(request.params.max_tokens or UNSTATED_TOKENS, MAX_COUNTED)
    return 1.0 + ids + sum(len(text) for text in request.texts) / CHARACTERS_PER_TOKEN + answer * request.num_choices


def conversation_of(request: GenerateRequest, sticky: str) -> str:
    """Return what the requests of one conversation have in common: who asks, and how the prompt begins."""
    if request.messages:
        begin = "|".join(message.content for message in request.messages[:2] if message.role != "assistant")
    else:
        begin = request.prompt or ",".join(map(str, (request.token_ids or ())[:64]))
    return f"{sticky}|{begin[:SHARED_CHARACTERS]}"
