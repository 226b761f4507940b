"""Report the cost of an architecture: parameters, FLOPs, cache and memory. Knows arithmetic, no tensors."""

from __future__ import annotations

from typing import Protocol

from pydantic import BaseModel, ConfigDict

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.flops import FlopsPerToken, count_flops
from backend.domain.architectures.kv_cache import expanded_kv_bytes_per_token, kv_bytes, kv_bytes_per_token
from backend.domain.architectures.parameters import count_active_parameters, count_lora_parameters, count_parameters
from backend.domain.estimates.memory import estimate_memory
from backend.domain.estimates.setting import DeviceKind, Precision, TrainingSetting


class HasRank(Protocol):
    """Anything with a LoRA rank, such as `run_config.LoraConfig`."""

    @property
    def rank(self) -> int: ...


class MemoryBytes(BaseModel):
    """Peak memory of one training process in bytes; see `memory.MemoryEstimate`. The parts add up to `total`."""

    model_config = ConfigDict(frozen=True)

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    temporary: int
    overhead: int
    total: int


class ArchitectureReport(BaseModel):
    """Cost of an architecture. Counts are exact; `memory_bytes` is an estimate (see `memory`).

    `active_parameters` are those that one token passes through. `kv_cache_bytes` is the whole cache after `context` tokens, which is
    less than `context` times `kv_cache_bytes_per_token` where layers slide. `kv_cache_expanded_bytes_per_token` is what latent
    attention spares: None for other attention.
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
    flops_per_token: FlopsPerToken
    kv_cache_bytes_per_token: int
    kv_cache_bytes: int
    kv_cache_expanded_bytes_per_token: int | None
    memory_bytes: MemoryBytes
    conventions: tuple[str, ...]


CONVENTIONS = (
    "FLOPs: 2 for each weight of a matrix product that a token passes (the output head counts, tied or not; the embedding look-up does "
    "not; of experts those picked), plus attention's scores and their use, every position taken to see the whole context, sliding "
    "layers too. Training is three times forward; with LoRA frozen weights have no gradient of their own.",
    "Memory: the peak of a training step, by arithmetic: weights, gradients and AdamW's two moments in fp32 (bf16 is autocast over fp32 "
    "weights), what the backward pass needs kept, and the loss; with LoRA only adapters have gradients and moments. At the peak gradients "
    "may be still to come, and then they count nothing.",
    "KV cache: keys and values of all layers, 4 bytes a number in fp32, 2 in bf16; a sliding layer keeps at most its window less one "
    "token; latent attention keeps the latent and the shared rotary key, as transformers and vLLM do.",
)


def describe(
    config: ArchitectureConfig,
    *,
    precision: Precision = "fp32",
    micro_batch: int = 1,
    context: int | None = None,
    lora: HasRank | None = None,
    recompute: bool = False,
    device: DeviceKind = "cpu",
) -> ArchitectureReport:
    """Say what a network of this shape costs to train, by arithmetic alone.

    `context` (default: the architecture's) is the length of a training sequence in tokens. With `lora` the base is frozen; `recompute`
    is that of activations.

    Example:
        >>> describe(ArchitectureConfig(num_layers=4, width=128, num_heads=4, num_kv_heads=4)).parameters
        1115264
    """
    length, rank = context or config.context, lora.rank if lora else None
    parts = count_parameters(config)
    number_bytes = 2 if precision == "bf16" else 4
    setting = TrainingSetting(
        architecture=config,
        lora_rank=rank,
        precision=precision,
        micro_batch=micro_batch,
        context=length,
        recompute=recompute,
        device=device,
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
        flops_per_token=count_flops(config, context=length, micro_batch=micro_batch, lora_rank=rank),
        kv_cache_bytes_per_token=kv_bytes_per_token(config, number_bytes=number_bytes),
        kv_cache_bytes=kv_bytes(config, tokens=length, number_bytes=number_bytes),
        kv_cache_expanded_bytes_per_token=expanded_kv_bytes_per_token(config, number_bytes=number_bytes),
        memory_bytes=MemoryBytes(**memory.parts, total=memory.total),
        conventions=CONVENTIONS,
    )
