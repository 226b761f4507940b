"""Estimates of a request: the work that it brings to a replica, and what it shares with others of its conversation."""

from __future__ import annotations

from backend.domain.serving.protocol import GenerateRequest

MAX_COUNTED = 4096
SHARED_CHARACTERS = 500


def weigh(request: GenerateRequest) -> float:
    """Return a request's weight: about the tokens of its prompt, and those that it may generate."""
    return 1.0 + request.estimate_prompt() + min(request.most_new_tokens, MAX_COUNTED * request.num_choices)


def conversation_of(request: GenerateRequest, sticky: str) -> str:
    """Return what the requests of one conversation have in common: who asks, and how the prompt begins."""
    if request.messages:
        begin = "|".join(message.content for message in request.messages[:2] if message.role != "assistant")
    else:
        begin = request.prompt or ",".join(map(str, (request.token_ids or ())[:64]))
    return f"{sticky}|{begin[:SHARED_CHARACTERS]}"
