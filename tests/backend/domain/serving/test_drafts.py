"""Which network may draft, what its tokens are, and the memory that it takes."""

from __future__ import annotations

from typing import Any

import pytest

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.serving.drafts import (
    DRAFT_CACHE_BYTES,
    MAX_REQUESTS,
    draft_cache_tokens,
    read_vocabulary,
    why_not_drafting,
    with_draft,
)
from backend.domain.serving.memory import int8_bytes, replica_memory

SMALL: dict[str, Any] = {
    "num_layers": 4,
    "width": 128,
    "num_heads": 4,
    "num_kv_heads": 4,
    "context": 256,
    "vocab_size": 2048,
    "feed_forward": 384,
}


def test_a_draft_keeps_its_context_or_as_much_as_the_budget_holds_and_at_least_a_page() -> None:
    assert draft_cache_tokens(4096, context=2048) == 2048
    long = draft_cache_tokens(46_080, context=8192)
    assert long % 64 == 0
    assert DRAFT_CACHE_BYTES - 64 * 46_080 * MAX_REQUESTS < long * 46_080 * MAX_REQUESTS <= DRAFT_CACHE_BYTES
    assert draft_cache_tokens(10**9, context=8192) == 64


def test_a_replica_with_a_draft_holds_its_int8_weights_and_its_keys_too() -> None:
    shape = ArchitectureConfig(**SMALL)
    plain = replica_memory(parameters=10**9, shape=shape, device="cpu")
    both = with_draft(plain, parameters=10**6, shape=shape)
    assert both.weight_bytes - plain.weight_bytes == both.shared_bytes - plain.shared_bytes == int8_bytes(10**6, shape)
    assert (both.cache_bytes or 0) - (plain.cache_bytes or 0) == 4 * 256 * 4096  # requests, context, bytes per token
    assert with_draft(plain, parameters=10**6, shape=None).cache_bytes is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"family": "llama"}, None),
        ({"family": "qwen3"}, None),
        ({"family": "mistral", "window": 256}, None),
        ({"family": "mistral", "window": 64}, "window"),
        ({"family": "gpt2"}, "family is gpt2"),
    ],
    ids=["llama", "qwen3", "mistral", "window", "gpt2"],
)
def test_only_networks_whose_layers_are_compiled_draft(changes: dict[str, Any], reason: str | None) -> None:
    why = why_not_drafting(ArchitectureConfig(**SMALL, **changes))
    assert why is None if reason is None else reason in (why or "")
    assert why_not_drafting(None) is None


def test_a_vocabulary_is_its_tokens_with_their_ids_in_every_form_of_the_file() -> None:
    added = [{"id": 2, "content": "<s>"}]
    expected = {"a": 0, "b": 1, "<s>": 2}
    assert read_vocabulary({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}}, "added_tokens": added}) == expected
    assert (
        read_vocabulary({"model": {"type": "Unigram", "vocab": [["a", -1.0], ["b", -2.0]]}, "added_tokens": added})
        == expected
    )
    assert read_vocabulary({"model": {}}) is None
