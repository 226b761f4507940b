"""Memory of a replica: what the engine allocates, by the same arithmetic."""

from __future__ import annotations

import pytest

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.serving.memory import CACHE_BYTES, PAGE_TOKENS, cache_pages, replica_memory

SMALL = ArchitectureConfig(num_layers=4, width=128, num_heads=4, num_kv_heads=4, context=256, vocab_size=2048, feed_forward=384)


def test_weights_are_fp32_on_a_cpu_and_bf16_on_a_gpu() -> None:
    assert replica_memory(parameters=10**9, shape=None, device="cpu").weight_bytes == 4 * 10**9
    assert replica_memory(parameters=10**9, shape=None, device="cuda").weight_bytes == 2 * 10**9


def test_the_cache_holds_sixteen_contexts_of_a_small_network() -> None:
    # 2 (key and value) x 4 layers x 4 heads x 32 numbers x 4 bytes = 4,096 bytes per token; 16 x 256 tokens
    assert replica_memory(parameters=10**6, shape=SMALL, device="cpu").cache_bytes == 4096 * 16 * 256


def test_the_cache_of_a_large_network_stays_within_the_budget_but_always_holds_one_context() -> None:
    page = 1 << 20
    assert cache_pages(page, tokens=10**6, context=128, device="cpu") == CACHE_BYTES["cpu"] // page
    assert cache_pages(1 << 30, tokens=10**6, context=1024, device="cpu") == 1024 // PAGE_TOKENS + 1


@pytest.mark.parametrize("known", [True, False])
def test_an_unknown_shape_leaves_the_cache_out_of_the_sum(known: bool) -> None:
    memory = replica_memory(parameters=10**6, shape=SMALL if known else None, device="cpu")
    assert (memory.cache_bytes is None) is not known
    assert memory.total_bytes == memory.weight_bytes + (memory.runtime_bytes or 0) + (memory.cache_bytes or 0)


def test_the_runtime_of_a_gpu_was_not_measured_and_is_absent() -> None:
    assert replica_memory(parameters=10**6, shape=SMALL, device="cuda").runtime_bytes is None
