"""Memory of a replica: what the engine allocates, by the same arithmetic."""

from __future__ import annotations

import pytest

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.serving.memory import CACHE_BYTES, PAGE_TOKENS, cache_pages, replica_memory

SMALL = ArchitectureConfig(
    num_layers=4, width=128, num_heads=4, num_kv_heads=4, context=256, vocab_size=2048, feed_forward=384
)


def test_weights_are_fp32_on_a_cpu_and_bf16_on_a_gpu() -> None:
    assert replica_memory(parameters=10**9, shape=None, device="cpu").weight_bytes == 4 * 10**9
    assert replica_memory(parameters=10**9, shape=None, device="cuda").weight_bytes == 2 * 10**9


def test_replicas_of_one_machine_hold_the_weights_once_on_a_cpu_and_each_on_a_gpu() -> None:
    memory = replica_memory(parameters=10**9, shape=SMALL, device="cpu")
    assert memory.of_replicas(1) == memory.total_bytes
    assert memory.of_replicas(3) == memory.total_bytes + 2 * memory.further_bytes
    assert memory.further_bytes == (memory.cache_bytes or 0) + (memory.runtime_bytes or 0)
    on_gpu = replica_memory(parameters=10**9, shape=SMALL, device="cuda")
    assert on_gpu.further_bytes == on_gpu.total_bytes


def test_int8_has_a_byte_per_weight_of_a_linear_layer_and_is_prepared_beside_float32() -> None:
    # of each layer 4 x 128 x 128 for attention and 3 x 128 x 384 for the feed-forward, with 4 x 128 + 2 x 384 + 128
    # outputs; the head
    linear, outputs, embedding, norms = (
        4 * (4 * 128**2 + 3 * 128 * 384) + 2048 * 128,
        4 * (5 * 128 + 2 * 384) + 2048,
        2048 * 128,
        9 * 128,
    )
    shape = SMALL.model_copy(update={"tie_embeddings": False})
    memory = replica_memory(parameters=linear + embedding + norms, shape=shape, device="cpu", precision="int8")
    assert memory.weight_bytes == linear + 4 * (outputs + embedding + norms)
    tied = SMALL.model_copy(update={"tie_embeddings": True})
    assert (
        replica_memory(parameters=linear + norms, shape=tied, device="cpu", precision="int8").weight_bytes
        == memory.weight_bytes
    )
    large = replica_memory(parameters=10**9, shape=None, device="cpu", precision="int8")
    assert (
        large.of_replicas(2)
        == large.preparing_bytes + (large.runtime_bytes or 0)
        > large.total_bytes + large.further_bytes
    )


@pytest.mark.parametrize("is_tied", [True, False])
def test_16_bits_have_two_bytes_per_weight_of_a_linear_layer_or_embedding(is_tied: bool) -> None:
    linear, embedding, norms = 4 * (4 * 128**2 + 3 * 128 * 384) + 2048 * 128, 0 if is_tied else 2048 * 128, 9 * 128
    shape = SMALL.model_copy(update={"tie_embeddings": is_tied})
    parameters = linear + embedding + norms
    expected = 2 * (linear + embedding) + 4 * norms
    assert (
        replica_memory(parameters=parameters, shape=shape, device="cpu", precision="bfloat16").weight_bytes == expected
    )
    stored = replica_memory(parameters=parameters, shape=shape, device="cpu", is_16_bit=True)
    assert stored.weight_bytes == expected
    assert stored.preparing_bytes == 4 * parameters + (stored.runtime_bytes or 0)
    assert (
        replica_memory(parameters=parameters, shape=None, device="cpu", is_16_bit=True).weight_bytes == 4 * parameters
    )
    gpt2 = shape.model_copy(update={"family": "gpt2"})
    assert (
        replica_memory(parameters=parameters, shape=gpt2, device="cpu", is_16_bit=True).weight_bytes == 4 * parameters
    )


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
