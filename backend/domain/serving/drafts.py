"""Speculative decoding: a smaller checkpoint, the draft, proposes tokens that the served one checks. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.cost import kv_bytes_per_token
from backend.domain.serving.memory import FUSED_FAMILIES, NUMBER_BYTES, PAGE_TOKENS, ReplicaMemory, replica_memory

MAX_REQUESTS = 4
"""Requests of a step above which nothing is drafted: its products are then bound by arithmetic, not by weights."""

DRAFT_CACHE_BYTES = 256 << 20
"""Budget of a draft's keys and values, for all its requests together."""

CHOOSE_DRAFT = "Choose a draft that was trained with the same tokenizer, or none."


def draft_cache_tokens(token_bytes: int, *, context: int) -> int:
    """Return the tokens of one request that a draft keeps: its context, or fewer within the budget, at least a page.

    >>> draft_cache_tokens(1 << 20, context=4096)
    64
    """
    affordable = DRAFT_CACHE_BYTES // (MAX_REQUESTS * token_bytes) // PAGE_TOKENS * PAGE_TOKENS
    return min(context, max(PAGE_TOKENS, affordable))


def with_draft(memory: ReplicaMemory, *, parameters: int, shape: ArchitectureConfig | None) -> ReplicaMemory:
    """Return the memory of a replica on a CPU that holds a draft in int8 too, as part of its weights and its cache."""
    draft = replica_memory(parameters=parameters, shape=shape, device="cpu", precision="int8")
    cache = None
    if shape is not None and memory.cache_bytes is not None:
        token_bytes = kv_bytes_per_token(shape, number_bytes=NUMBER_BYTES["cpu"])
        cache = memory.cache_bytes + MAX_REQUESTS * token_bytes * draft_cache_tokens(token_bytes, context=shape.context)
    return replace(
        memory,
        weight_bytes=memory.weight_bytes + draft.weight_bytes,
        cache_bytes=cache,
        shared_bytes=memory.shared_bytes + draft.shared_bytes,
        preparing_bytes=max(memory.preparing_bytes, memory.weight_bytes + draft.preparing_bytes),
    )


def why_not_drafting(shape: ArchitectureConfig | None) -> str | None:
    """Return why a network can't draft or be drafted for; None for one that can, and for one of unknown shape, which
    its replica judges.
    """
    if shape is None:
        return None
    if shape.family not in FUSED_FAMILIES:
        return f"its family is {shape.family}, and drafts need one of {', '.join(sorted(FUSED_FAMILIES))}"
    if shape.window is not None and shape.window < shape.context:
        return "its attention has a window"
    return None


def read_vocabulary(tokenizer: Mapping[str, Any]) -> dict[str, int] | None:
    """Return the tokens of a tokenizer.json by text; None for a form that is not known."""
    vocab = (tokenizer.get("model") or {}).get("vocab")
    if isinstance(vocab, list):  # of Unigram: [text, score] in the order of ids
        vocab = {str(entry[0]): index for index, entry in enumerate(vocab)}
    if not isinstance(vocab, dict):
        return None
    return vocab | {str(token["content"]): int(token["id"]) for token in tokenizer.get("added_tokens") or ()}
