"""Memory of the next-token loss: the logits of a chunk of tokens, and the gradients computed with them."""

from __future__ import annotations

from backend.domain.training.objectives import Objective

LOGITS_AT_ONCE_BYTES = 64 * 2**20
"""Bytes of one chunk of logits, in fp32. Smaller chunks cost time, as each reads and writes the head's gradient."""

PLAIN_COPIES = 3
"""Copies for objectives that need each token's log-probability, if one chunk fits: logits and two gradients."""

FLOAT = 4


def chunk_rows(tokens: int, vocab_size: int, *, at_once_bytes: int = LOGITS_AT_ONCE_BYTES) -> int:
    """Return the tokens per chunk of logits: chunks of about one size.

    Example:
        >>> chunk_rows(4096, 32_000)
        512
    """
    most = max(1, min(tokens, at_once_bytes // (FLOAT * vocab_size)))
    return max(1, -(-tokens // max(-(-tokens // most), 1)))


def loss_bytes(
    objective: Objective,
    *,
    tokens: int,
    width: int,
    vocab_size: int,
    low: int,
    trains_head: bool,
    casts_head: bool = True,
) -> tuple[int, int]:
    """Return (bytes of the logits, bytes allocated with them) at the moment of the loss: the hidden states, the head's
    copy and the gradients of both.

    `low` are the bytes of a number of a matrix product: 2 under autocast, where a chunk exists in both types for a
    moment; `casts_head`: so does the head, which has 4 bytes a number itself.
    """
    if not objective.facts.writes:  # one number a row
        return 0, 0
    head, hidden = width * vocab_size, FLOAT * width * tokens
    cast = low if low < FLOAT else 0
    copy = cast * head if casts_head else 0
    if not objective.predicts_tokens:
        if FLOAT * vocab_size * tokens <= LOGITS_AT_ONCE_BYTES:
            return PLAIN_COPIES * FLOAT * vocab_size * tokens, hidden + copy
        by_head = FLOAT * head if trains_head else 0
        return (2 * FLOAT + cast) * vocab_size * chunk_rows(tokens, vocab_size), hidden + copy + by_head
    by_head = (FLOAT + cast) * head if trains_head else 0
    return (FLOAT + cast) * vocab_size * chunk_rows(tokens, vocab_size), 2 * hidden + copy + by_head
