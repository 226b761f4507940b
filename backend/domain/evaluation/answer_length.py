"""Longest answer that a context leaves room for. Pure."""

from __future__ import annotations

STEP = 32
"""Prompts of about the same length get the same limit, so that they are answered in one batch."""


def is_capped(max_tokens: int, *, context: int) -> bool:
    """Return whether an answer of `max_tokens` may not fit beside its prompt: it is longer than half of the context."""
    return max_tokens > context // 2


def longest_answer(max_tokens: int, *, prompt: int, context: int) -> int:
    """Return how many tokens the answer to a prompt of this many tokens may have.

    Up to half of the context is always the answer's, and a prompt that needs it loses its beginning, as in
    lm-evaluation-harness. A longer answer gets what its prompt leaves, in steps of 32 tokens.

    Example:
        >>> [longest_answer(1280, prompt=prompt, context=512) for prompt in (12, 100, 400)]
        [480, 384, 256]
    """
    if not is_capped(max_tokens, context=context):
        return max_tokens
    half, room = max(1, context // 2), context - prompt
    return max_tokens if room >= max_tokens else max(half, room - room % STEP)
