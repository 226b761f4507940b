"""Memory that a deployment needs against what serving machines have free."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backend.db.tables import Checkpoint
from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.serving.memory import replica_memory
from backend.services.context import Context
from backend.services.jobs.workers import beat
from backend.services.serving.memory import deployment_memory
from tests.support.scenario import add_row

CONFIG = {
    "model_type": "gpt2",
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 128,
    "vocab_size": 500,
}


def add_checkpoint(ctx: Context, name: str = "tiny", **values: Any) -> str:
    """Insert a checkpoint with a config.json."""
    folder = ctx.artifacts.folder("checkpoints", name)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return add_row(
        ctx,
        Checkpoint(
            name=name, origin="added", folder=ctx.artifacts.relative(folder), **{"parameters": 250_000_000, **values}
        ),
    )


def add_worker(
    ctx: Context, host: str, *, free: int, queues: list[str], gpus: list[dict[str, Any]] | None = None
) -> None:
    """Let a worker report a machine with 8 GB of which `free` bytes are free."""
    gauges = {"memory_total_bytes": 8 * 10**9, "memory_used_bytes": 8 * 10**9 - free, "gpus": gpus or []}
    devices = [gpu["index"] for gpu in gpus or []]
    beat(ctx, name=f"{host}/w", host=host, pid=1, slots=dict.fromkeys(queues, 1), devices=devices, gauges=gauges)


def test_the_serving_machine_with_most_free_memory_is_compared(ctx: Context) -> None:
    checkpoint = add_checkpoint(ctx)
    assert deployment_memory(ctx, checkpoint).free is None
    assert deployment_memory(ctx, checkpoint).fits(1) is None
    add_worker(ctx, "trainer", free=7 * 10**9, queues=["train"])
    add_worker(ctx, "small", free=10**9, queues=["serve"])
    add_worker(ctx, "large", free=4 * 10**9, queues=["serve", "cpu"])
    memory = deployment_memory(ctx, checkpoint)
    assert memory.free is not None
    assert (memory.free.host, memory.free.device, memory.free.free_bytes) == ("large", "cpu", 4 * 10**9)
    assert memory.replica is not None
    assert memory.replica.weight_bytes == 10**9
    # key and value, layers, width, bytes, context, requests
    assert memory.replica.cache_bytes == 2 * 2 * 64 * 4 * 128 * 16
    # 4 GB hold the weights once, 10**9, and for each replica the cache, 2.1 MB, and the runtime, 461 MB
    assert memory.replica.further_bytes == memory.replica.total_bytes - 10**9
    assert (memory.fits(1), memory.fits(6), memory.fits(7)) == (True, True, False)


def test_on_gpus_each_replica_has_one_of_its_own_and_weights_are_bf16(ctx: Context) -> None:
    gpus = [
        {"index": str(n), "memory_used_bytes": used, "memory_total_bytes": 8 * 10**9}
        for n, used in enumerate((6 * 10**9, 10**9))
    ]
    add_worker(ctx, "lab", free=10**9, queues=["serve"], gpus=gpus)
    memory = deployment_memory(ctx, add_checkpoint(ctx))
    assert memory.free is not None
    assert (memory.free.device, memory.free.free_bytes) == ("cuda", 7 * 10**9)
    assert memory.replica is not None
    assert memory.replica.weight_bytes == 5 * 10**8
    assert memory.fits(8) is True


def test_an_adapter_loads_its_base_too(ctx: Context) -> None:
    base = add_checkpoint(ctx, "base")
    adapter = add_checkpoint(ctx, "adapter", parameters=1000, is_adapter=True, parent_id=base)
    replica = deployment_memory(ctx, adapter).replica
    assert replica is not None
    assert replica.weight_bytes == 4 * (250_000_000 + 1000)


@pytest.mark.parametrize(("bytes_per_weight", "expected"), [(2, 2), (4, 4)], ids=["16 bits", "32 bits"])
def test_a_checkpoint_of_16_bits_stays_in_16_bits(ctx: Context, bytes_per_weight: int, expected: int) -> None:
    llama = {
        "model_type": "llama",
        "vocab_size": 500,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
    }
    llama |= {
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
    }
    norms, parameters = 5 * 64, 500 * 64 + 2 * (4 * 64**2 + 3 * 64 * 128) + 5 * 64
    checkpoint = add_checkpoint(ctx, "llama", parameters=parameters)
    folder = ctx.artifacts.folder("checkpoints", "llama")
    (folder / "config.json").write_text(json.dumps(llama))
    (folder / "model.safetensors").write_bytes(bytes(1000 + bytes_per_weight * parameters))
    replica = deployment_memory(ctx, checkpoint).replica
    assert replica is not None
    assert replica.weight_bytes == expected * (parameters - norms) + 4 * norms


def test_a_checkpoint_of_unknown_size_has_no_number(ctx: Context) -> None:
    assert deployment_memory(ctx, add_checkpoint(ctx, parameters=None)).replica is None


def test_a_shorter_context_needs_less_cache_and_a_longer_one_than_the_networks_is_the_networks() -> None:
    """Llama-3.1-8B: 131,072 tokens of 2 x 32 layers x 8 heads x 128 x 4 bytes are 32 GiB, 8,192 of them 2 GiB."""
    sizes = {"width": 4096, "num_layers": 32, "num_heads": 32, "num_kv_heads": 8, "feed_forward": 14_336}
    shape = ArchitectureConfig(vocab_size=128_256, context=131_072, tie_embeddings=False, **sizes)

    def cache_gib(context: int | None) -> float:
        memory = replica_memory(parameters=8_030_261_248, shape=shape, device="cpu", context=context)
        assert memory.cache_bytes is not None
        return memory.cache_bytes / 2**30

    assert cache_gib(None) == pytest.approx(32, rel=0.01)
    assert cache_gib(200_000) == cache_gib(None)
    assert cache_gib(8192) == pytest.approx(2, rel=0.02)
    assert cache_gib(512) == pytest.approx(0.5, rel=0.02), "the budget, with room for four such contexts"
