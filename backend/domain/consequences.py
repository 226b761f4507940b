"""What an architecture costs, in one report: parameters, FLOPs, cache and memory. Knows arithmetic, no tensors."""

from __future__ import annotations

from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict

from backend.domain.architecture import ArchitectureConfig
from backend.domain.cache_bytes import expanded_kv_bytes_per_token, kv_bytes, kv_bytes_per_token
from backend.domain.flops import FlopsPerToken, count_flops
from backend.domain.parameters import count_active_parameters, count_lora_parameters, count_parameters, list_matrices


class HasRank(Protocol):
    """Anything with a LoRA rank, such as `run_config.LoraConfig`."""

    @property
    def rank(self) -> int: ...


class MemoryBytes(BaseModel):
    """What one training process holds, in bytes."""

    model_config = ConfigDict(frozen=True)

    weights: int
    gradients: int
    optimizer: int
    activations: int
    total: int


class ArchitectureReport(BaseModel):
    """What an architecture costs. Counts are exact; `memory_bytes.activations` is an estimate (see `describe`).

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
    "Memory: weights, gradients and AdamW's two moments in fp32 (bf16 is autocast over fp32 weights); with LoRA only adapters have "
    "gradients and moments. Activations are an estimate without activation recompute, logits and their gradient included.",
    "KV cache: keys and values of all layers, 4 bytes a number in fp32, 2 in bf16; a sliding layer keeps at most its window less one "
    "token; latent attention keeps the latent and the shared rotary key, as transformers and vLLM do.",
)


def describe(
    config: ArchitectureConfig,
    *,
    precision: Literal["fp32", "bf16"] = "fp32",
    micro_batch: int = 1,
    context: int | None = None,
    lora: HasRank | None = None,
) -> ArchitectureReport:
    """Say what a network of this shape costs to train, by arithmetic alone.

    `context` (default: the architecture's) is the length of a training sequence in tokens. With `lora` the base is frozen.

    Example:
        >>> describe(ArchitectureConfig(num_layers=4, width=128, num_heads=4, num_kv_heads=4)).parameters
        1115264
    """
    length = context or config.context
    parts = count_parameters(config)
    base_parameters = sum(parts.values())
    adapters = count_lora_parameters(config, rank=lora.rank) if lora else 0
    trainable = adapters if lora else base_parameters
    number_bytes = 2 if precision == "bf16" else 4
    weights = 4 * (base_parameters + adapters)
    activations = _activation_bytes(config, tokens=micro_batch * length, number_bytes=number_bytes)
    return ArchitectureReport(
        family=config.family,
        parameters=base_parameters,
        parameters_by_component={**parts, "total": base_parameters},
        active_parameters=count_active_parameters(config),
        trainable_parameters=trainable,
        context=length,
        micro_batch=micro_batch,
        precision=precision,
        flops_per_token=count_flops(config, context=length, micro_batch=micro_batch, lora_rank=lora.rank if lora else None),
        kv_cache_bytes_per_token=kv_bytes_per_token(config, number_bytes=number_bytes),
        kv_cache_bytes=kv_bytes(config, tokens=length, number_bytes=number_bytes),
        kv_cache_expanded_bytes_per_token=expanded_kv_bytes_per_token(config, number_bytes=number_bytes),
        memory_bytes=MemoryBytes(
            weights=weights,
            gradients=4 * trainable,
            optimizer=8 * trainable,
            activations=activations,
            total=weights + 12 * trainable + activations,
        ),
        conventions=CONVENTIONS,
    )


def _activation_bytes(config: ArchitectureConfig, *, tokens: int, number_bytes: int) -> int:
    """Estimate what the backward pass keeps, and the logits with their gradient.

    Counted from the operators that save something in a block (two norms in fp32, rotary turns, fused attention, SwiGLU) and checked
    against the bytes that autograd holds on to for Llama: within a fifth. Other families are near. bf16 also holds a copy of each
    matrix in that format.
    """
    kv_width = config.num_kv_heads * config.head_dim
    inner = config.feed_forward
    if config.num_experts is not None:
        inner = config.expert_size * ((config.experts_per_token or 0) + (config.shared_experts or 0))
    per_layer = (5 * config.width + 2 * kv_width + 4 * inner) * number_bytes + 4 * 4 * config.width
    logits = 3 * 4 * config.vocab_size  # log-probabilities kept; their gradient and the logits' while backward begins
    copies = 0 if number_bytes == 4 else number_bytes * sum(matrix.size * matrix.copies for matrix in list_matrices(config))
    return tokens * (config.num_layers * per_layer + logits + 3 * 4 * config.width) + copies
