"""Probabilities of tokens in OpenAI's two shapes: of chats, and the older one of text completions."""

from __future__ import annotations

from collections.abc import Sequence

from backend.domain.json_values import JsonObject
from backend.domain.serving.protocol import ScoredToken, TokenLogprob


def chat_logprobs(tokens: Sequence[ScoredToken]) -> JsonObject:
    """Return `choices[].logprobs` of a chat completion."""
    return {
        "content": [_entry(token) | {"top_logprobs": [_entry(top) for top in token.top]} for token in tokens],
        "refusal": None,
    }


def _entry(token: TokenLogprob) -> dict[str, object]:
    return {"token": token.token, "logprob": token.logprob, "bytes": list(token.encoded)}


def text_logprobs(tokens: Sequence[ScoredToken], *, offsets: Sequence[int]) -> dict[str, object]:
    """Return `choices[].logprobs` of a text completion, given the character at which each token begins.

    The chosen token is among `top_logprobs`, as at OpenAI; a prompt's first token has neither.
    """
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [_alternatives(token) for token in tokens],
        "text_offset": list(offsets),
    }


def _alternatives(token: ScoredToken) -> dict[str, float | None] | None:
    if token.logprob is None:
        return None
    values: dict[str, float | None] = {}
    for entry in (*token.top, token):
        values.setdefault(entry.token, entry.logprob)
    return values


def join_tokens(tokens: Sequence[TokenLogprob]) -> str:
    """Return the text of consecutive tokens; bytes that are no text are replacement characters."""
    return b"".join(token.encoded for token in tokens).decode(errors="replace")
