"""The estimate of large fine-tuning runs beside published peaks; docs/gpu.md has the same figures and their errors."""

from __future__ import annotations

from typing import Any

import pytest

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.estimates.memory import GIB, USUAL_DEVICES, MemoryEstimate, estimate_memory, usable_bytes
from backend.domain.estimates.setting import setting_of
from backend.domain.training.config import RunConfig
from backend.recipes import RECIPES

LLAMA: dict[str, Any] = {"family": "llama", "num_kv_heads": 8, "context": 131_072, "vocab_size": 128_256}
LLAMA_8B = ArchitectureConfig(
    **LLAMA, num_layers=32, width=4096, num_heads=32, feed_forward=14_336, tie_embeddings=False
)
LLAMA_70B = ArchitectureConfig(
    **LLAMA, num_layers=80, width=8192, num_heads=64, feed_forward=28_672, tie_embeddings=False
)
FSDP: dict[str, Any] = {"count": 8, "sharding": "fsdp"}


def estimate(shape: ArchitectureConfig, **values: Any) -> MemoryEstimate:
    """Estimate a run like the published ones: two sequences of 2,048 tokens, bf16, recomputed activations."""
    sizes = {"micro_batch": 2, "context": 2048, "precision": "bf16", "recompute": True, "device": "gpu", **values}
    config = RunConfig(objective="sft", dataset="d", base="b", max_steps=10, **sizes)
    return estimate_memory(setting_of(config, shape, device="gpu"))


def residual_stream_in_16_bits(shape: ArchitectureConfig) -> float:
    """Return what a peak would lose if the inputs of blocks were saved in 16 bits, as torchtune's are."""
    return 2 * 2048 * shape.width * shape.num_layers * 2.0


def test_qlora_of_8b_exceeds_the_published_peak_by_the_number_format_of_the_residual_stream() -> None:
    """torchtune's README: Llama 3.1 8B, QLoRA, 7.4 GiB."""
    peak = estimate(LLAMA_8B, method="qlora", lora={"rank": 8})
    assert peak.total / (7.4 * GIB) == pytest.approx(1.22, abs=0.01)
    assert (peak.total - residual_stream_in_16_bits(LLAMA_8B)) / (7.4 * GIB) == pytest.approx(1.08, abs=0.01)


def test_lora_of_8b_is_estimated_within_a_sixth_of_the_published_peak() -> None:
    """torchtune's README: Llama 3.1 8B, LoRA, 16.2 GiB, with the frozen base in bfloat16 as here."""
    peak = estimate(LLAMA_8B, method="lora", lora={"rank": 8})
    assert peak.total / (16.2 * GIB) == pytest.approx(1.14, abs=0.01)
    assert (peak.total - residual_stream_in_16_bits(LLAMA_8B)) / (16.2 * GIB) == pytest.approx(1.08, abs=0.01)


def test_a_frozen_base_in_float32_takes_twice_as_much_and_its_copies() -> None:
    held, whole = (
        estimate(LLAMA_8B, method="lora", lora={"rank": 8, "frozen_base": name}) for name in ("16-bit", "fp32")
    )
    assert whole.weights > 1.98 * held.weights
    assert whole.total / GIB == pytest.approx(33.8, abs=0.5)
    assert estimate(LLAMA_8B, method="lora", precision="fp32") == estimate(
        LLAMA_8B, method="lora", precision="fp32", lora={"frozen_base": "fp32"}
    )


def test_the_recipe_of_8b_fits_one_gpu_of_24_gb() -> None:
    config = RECIPES["llama-3.1-8b-qlora"].config
    total = estimate_memory(setting_of(config, LLAMA_8B, device="gpu")).total
    assert total / GIB == pytest.approx(8.5, abs=1.0)
    assert total < usable_bytes(USUAL_DEVICES["24 GB"], "gpu")


def test_lora_of_70b_on_eight_gpus_exceeds_the_published_peak_by_a_third() -> None:
    """torchtune's README: Llama 3.1 70B, LoRA, 27.6 GiB on each of eight A100."""
    peak = estimate(LLAMA_70B, method="lora", lora={"rank": 16}, devices=FSDP)
    assert peak.moment == "backward"
    assert peak.total / (27.6 * GIB) == pytest.approx(1.32, abs=0.01)
    assert (peak.total - residual_stream_in_16_bits(LLAMA_70B)) / (27.6 * GIB) == pytest.approx(1.14, abs=0.01)


def test_zero_3_of_70b_is_said_not_to_fit_because_each_process_loads_the_whole_network() -> None:
    peak = estimate(LLAMA_70B, method="lora", lora={"rank": 16}, devices={"count": 8, "sharding": "zero3"})
    assert peak.moment == "load"
    assert peak.total / GIB == pytest.approx(263.6, abs=1.0)


def test_zero_keeps_what_its_stage_does_not_shard_and_offload_empties_a_gpu() -> None:
    """Full fine-tuning of 8B on two GPUs: 32 GB of weights, as many gradients, twice as many moments."""
    by = {
        name: estimate(LLAMA_8B, devices={"count": 2, "sharding": name.split("-")[0], "offload": "-" in name})
        for name in ("ddp", "zero2", "zero2-off", "fsdp", "zero3", "zero3-off")
    }
    weights = by["ddp"].weights
    assert by["zero2"].weights == weights
    assert by["zero3"].weights == by["fsdp"].weights == weights // 2
    assert by["zero2"].optimizer == by["zero3"].optimizer == weights
    # DeepSpeed updates a copy of its share, and reduces gradients in a bucket
    assert by["zero3"].temporary - by["fsdp"].temporary == weights // 2 + 200_000_000
    assert by["zero2-off"].optimizer == by["zero2-off"].gradients == 0 == by["zero3-off"].optimizer
    assert by["ddp"].total > by["zero2"].total > by["zero2-off"].total


@pytest.mark.parametrize(("name", "shape"), [("llama-3.1-8b-fsdp", LLAMA_8B), ("llama-3.1-70b-fsdp", LLAMA_70B)])
def test_the_recipes_by_fsdp_fit_gpus_of_80_gb(name: str, shape: ArchitectureConfig) -> None:
    peak = estimate_memory(setting_of(RECIPES[name].config, shape, device="gpu"))
    assert peak.total < usable_bytes(USUAL_DEVICES["80 GB"], "gpu")
