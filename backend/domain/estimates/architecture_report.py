"""Report the cost of an architecture: parameters, FLOPs, cache and memory. By arithmetic, without tensors."""

from __future__ import annotations

from typing import Protocol

from pydantic import BaseModel, ConfigDict

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.cost import (
    FlopsPerToken,
    count_active_parameters,
    count_flops,
    count_lora_parameters,
    count_parameters,
    expanded_kv_bytes_per_token,
    kv_bytes,
    kv_bytes_per_token,
)
from backend.domain.estimates.memory import MemoryParts, estimate_memory
from backend.domain.estimates.setting import DeviceKind, Precision, pretraining_setting


class HasRank(Protocol):
    """Anything with a LoRA rank, such as `run_config.LoraConfig`."""

    @property
    def rank(self) -> int: ...


class MemoryBytes(MemoryParts):
    """Peak memory of one training process in bytes. The parts add up to `total`."""

    total: int


class ArchitectureReport(BaseModel):
    """Cost of an architecture. Counts are exact; `memory_bytes` is an estimate (see `memory`).

    `pass_sequences` are those of a micro-batch in one forward pass, which are fewer on a CPU (`sequences_at_once`).
    `active_parameters` are those that one token passes through. `kv_cache_bytes` is the whole cache after `context`
    tokens, which is less than `context` times `kv_cache_bytes_per_token` with sliding windows.
    `kv_cache_expanded_bytes_per_token` is the size without the latent of latent attention; None for other attention.
    """

    model_config = ConfigDict(frozen=True)

    family: str
    parameters: int
    parameters_by_component: dict[str, int]
    active_parameters: int
    trainable_parameters: int
    context: int
    micro_batch: int
    precision: str
    device: DeviceKind
    pass_sequences: int
    flops_per_token: FlopsPerToken
    kv_cache_bytes_per_token: int
    kv_cache_bytes: int
    kv_cache_expanded_bytes_per_token: int | None
    memory_bytes: MemoryBytes
    conventions: tuple[str, ...]


CONVENTIONS = (
    (
        "FLOPs: 2 for each weight of a token's matrix products (the output head counts, tied or not; the embedding"
        " look-up does not; of experts those picked), plus attention's two products, with every position attending to"
        " the whole context, sliding layers too. Training is three times forward; with LoRA frozen weights have no"
        " gradient of their own."
    ),
    (
        "Memory: the peak of a training step, by arithmetic: weights, gradients and AdamW's two moments in fp32 (bf16"
        " is autocast over fp32 weights), saved activations, and the loss; with LoRA only adapters have gradients and"
        " moments. Gradients count only if they exist at the peak. On a CPU a forward pass takes as many sequences of"
        " the micro-batch as fit its cache."
    ),
    (
        "KV cache: keys and values of all layers, 4 bytes a number in fp32, 2 in bf16; a sliding layer keeps at most"
        " its window less one token; latent attention keeps the latent and the shared rotary key, as in transformers"
        " and vLLM."
    ),
)


def describe_architecture(
    config: ArchitectureConfig,
    *,
    precision: Precision = "fp32",
    device: DeviceKind = "cpu",
    micro_batch: int = 1,
    context: int | None = None,
    lora: HasRank | None = None,
) -> ArchitectureReport:
    """Estimate the training cost of an architecture by arithmetic alone.

    `context` (default: the architecture's) is the length of a training sequence in tokens. With `lora` the base is
    frozen.

    Example:
        >>> describe_architecture(ArchitectureConfig(num_layers=4, width=128, num_heads=4, num_kv_heads=4)).parameters
        1115264
    """
    length, rank = context or config.context, lora.rank if lora else None
    parts = count_parameters(config)
    number_bytes = 2 if precision == "bf16" else 4
    setting = pretraining_setting(
        config, micro_batch=micro_batch, context=length, device=device, precision=precision, lora_rank=rank
    )
    memory = estimate_memory(setting)
    return ArchitectureReport(
        family=config.family,
        parameters=sum(parts.values()),
        parameters_by_component={**parts, "total": sum(parts.values())},
        active_parameters=count_active_parameters(config),
        trainable_parameters=count_lora_parameters(config, rank=rank) if rank else sum(parts.values()),
        context=length,
        micro_batch=micro_batch,
        precision=precision,
        device=device,
        pass_sequences=setting.micro_batch,
        flops_per_token=count_flops(config, context=length, micro_batch=micro_batch, lora_rank=rank),
        kv_cache_bytes_per_token=kv_bytes_per_token(config, number_bytes=number_bytes),
        kv_cache_bytes=kv_bytes(config, tokens=length, number_bytes=number_bytes),
        kv_cache_expanded_bytes_per_token=expanded_kv_bytes_per_token(config, number_bytes=number_bytes),
        memory_bytes=MemoryBytes(**memory.parts, total=memory.total),
        conventions=CONVENTIONS,
    )
