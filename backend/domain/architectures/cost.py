"""The cost of a network: parameters by component, as built; FLOPs per token, as torch's FLOP counter counts them;
KV-cache bytes, as transformers holds the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.families import FAMILIES


@dataclass(frozen=True)
class WeightMatrix:
    """A matrix of the network, `inputs` x `outputs`, in `copies` copies. A token passes through `used` of them, fewer
    for routed experts. LoRA adds an adapter of `adapter_ranks` times the configured rank to each copy. `folded`
    adapters are multiplied out and added to the weight in every forward pass, as PEFT does where transformers stacks
    experts in one parameter. `reads_embedding` counts the copies whose input is the embedding alone, which need no
    gradient while the embedding is frozen.
    """

    part: str
    inputs: int
    outputs: int
    copies: int
    used: int
    bias: bool = False
    adapter_ranks: int = 1
    folded: bool = False
    reads_embedding: int = 0

    @property
    def size(self) -> int:
        """Weights in one copy."""
        return self.inputs * self.outputs


def list_matrices(config: ArchitectureConfig) -> list[WeightMatrix]:
    """Return every matrix in the forward pass of a token; the head also if tied, the embedding look-up not."""
    head = WeightMatrix("output_head", config.width, config.vocab_size, 1, 1, adapter_ranks=0)
    return [*_attention(config), *_feed_forwards(config), head]


def _attention(config: ArchitectureConfig) -> Iterator[WeightMatrix]:
    family, layers, width = FAMILIES[config.family], config.num_layers, config.width
    heads_width = config.num_heads * config.head_dim
    if family.latent:
        yield from _latent_attention(config)
    elif "num_kv_heads" in family.fixed:  # one matrix for queries, keys and values
        yield WeightMatrix("attention", width, 3 * width, layers, layers, bias=True, reads_embedding=1)
        yield WeightMatrix("attention", width, width, layers, layers, bias=True)
    else:
        kv_width = config.num_kv_heads * config.head_dim
        yield WeightMatrix("attention", width, heads_width, layers, layers, reads_embedding=1)
        yield WeightMatrix("attention", width, kv_width, 2 * layers, 2 * layers, reads_embedding=2)
        yield WeightMatrix("attention", heads_width, width, layers, layers)


def _latent_attention(config: ArchitectureConfig) -> Iterator[WeightMatrix]:
    """Multi-head latent attention (DeepSeek-AI 2024, arXiv 2405.04434, section 2.1): down to latents, up to heads."""
    layers, width, heads = config.num_layers, config.width, config.num_heads
    rope, nope, kv_rank = config.rope_head_size or 0, config.nope_head_size or 0, config.kv_rank or 0
    if config.query_rank:
        yield WeightMatrix("attention", width, config.query_rank, layers, layers, reads_embedding=1)
        yield WeightMatrix("attention", config.query_rank, heads * config.head_dim, layers, layers)
    else:
        yield WeightMatrix("attention", width, heads * config.head_dim, layers, layers, reads_embedding=1)
    yield WeightMatrix("attention", width, kv_rank + rope, layers, layers, reads_embedding=1)
    yield WeightMatrix("attention", kv_rank, heads * (nope + config.value_dim), layers, layers)
    yield WeightMatrix("attention", heads * config.value_dim, width, layers, layers)


def _feed_forwards(config: ArchitectureConfig) -> Iterator[WeightMatrix]:
    family, width = FAMILIES[config.family], config.width
    mixed = sum(config.has_experts(layer) for layer in range(config.num_layers))
    dense = config.num_layers - mixed
    if not family.rotary:  # two matrices and a GELU between
        yield WeightMatrix("feed_forward", width, config.feed_forward, dense, dense, bias=True)
        yield WeightMatrix("feed_forward", config.feed_forward, width, dense, dense, bias=True)
    elif dense:
        yield from _gated(
            "feed_forward", width, config.feed_forward, dense, adapter_ranks=0 if family.has_experts else 1
        )
    if mixed:
        experts, picked, size = config.num_experts or 0, config.experts_per_token or 0, config.expert_size
        yield WeightMatrix("router", width, experts, mixed, mixed, folded=True)
        # gate and up in one
        yield WeightMatrix("experts", width, 2 * size, experts * mixed, picked * mixed, folded=True, adapter_ranks=2)
        yield WeightMatrix("experts", size, width, experts * mixed, picked * mixed, folded=True)
        if config.shared_experts:
            yield from _gated("shared_experts", width, config.shared_experts * size, mixed, adapter_ranks=0)


def _gated(part: str, width: int, size: int, layers: int, *, adapter_ranks: int) -> Iterator[WeightMatrix]:
    yield WeightMatrix(part, width, size, 2 * layers, 2 * layers, adapter_ranks=adapter_ranks)
    yield WeightMatrix(part, size, width, layers, layers, adapter_ranks=adapter_ranks)


def count_parameters(config: ArchitectureConfig) -> dict[str, int]:
    """Count parameters by component; the sum equals that of the built network (a tied head counts nothing).

    Components that the family lacks are left out.
    """
    parts = {"embedding": config.vocab_size * config.width}
    if config.family == "gpt2":
        parts["positions"] = config.context * config.width
    biases = 0
    for matrix in list_matrices(config):
        parts[matrix.part] = parts.get(matrix.part, 0) + matrix.size * matrix.copies
        biases += matrix.outputs * matrix.copies if matrix.bias else 0
    if config.tie_embeddings:
        parts["output_head"] = 0
    if biases:
        parts["biases"] = biases
    return {**parts, "norms": _count_norms(config)}


def _count_norms(config: ArchitectureConfig) -> int:
    family, width, layers = FAMILIES[config.family], config.width, config.num_layers
    if not family.rotary:  # LayerNorm: a weight and a bias each; BLOOM norms the embedding too
        return 2 * width * (2 * layers + 1 + (config.family == "bloom"))
    in_layer = 2 * width
    if family.latent:
        in_layer += (config.query_rank or 0) + (config.kv_rank or 0)
    elif "queries and keys" in family.norm:
        in_layer += 2 * config.head_dim
    if config.family == "gemma3":
        in_layer += 2 * width
    return layers * in_layer + width


def count_active_parameters(config: ArchitectureConfig) -> int:
    """Count the active parameters per token: all, less the experts that the router does not pick."""
    idle = sum(matrix.size * (matrix.copies - matrix.used) for matrix in list_matrices(config))
    return sum(count_parameters(config).values()) - idle


def count_lora_parameters(config: ArchitectureConfig, *, rank: int) -> int:
    """Count what adapters of one rank add: rank x (inputs + outputs) for each linear layer but the head.

    In families with experts PEFT (0.21, on transformers 5) adapts attention, the router and every expert, and skips
    dense first layers and shared experts, whose matrices have the same names as those of experts.
    """
    matrices = list_matrices(config)
    return sum(matrix.adapter_ranks * rank * (matrix.inputs + matrix.outputs) * matrix.copies for matrix in matrices)


class FlopsPerToken(BaseModel):
    """Floating-point operations for one token at the report's context."""

    model_config = ConfigDict(frozen=True)

    forward: int
    training: int


def count_flops(
    config: ArchitectureConfig, *, context: int, micro_batch: int = 1, lora_rank: int | None = None
) -> FlopsPerToken:
    """Count FLOPs per token of a sequence of `context` tokens: 2 per weight, and attention's two products.

    Every position is taken to see the whole context, sliding layers too: a matrix product over the mask computes what
    it hides (Chowdhery et al. 2022, arXiv 2204.02311, appendix B, with the head's product added). The backward pass
    computes two gradients per product; with adapters, frozen weights and matrices that read only the frozen embedding
    need none. Adapters of experts are folded into the weights once a forward pass, so their share for a token depends
    on how many tokens pass at once.
    """
    matrices = list_matrices(config)
    weights = sum(2 * matrix.size * matrix.used for matrix in matrices)
    scores = 2 * config.num_layers * config.num_heads * (config.head_dim + config.value_dim) * context
    if lora_rank is None:
        return FlopsPerToken(forward=weights + scores, training=3 * (weights + scores))
    adapters, folded, weight_gradients, unneeded = 0, 0, 0, 0
    for matrix in matrices:
        rank = lora_rank * matrix.adapter_ranks
        if matrix.folded:  # a gradient reaches the adapter through the weight's own
            folded += 2 * rank * matrix.size * matrix.copies
            weight_gradients += 2 * matrix.size * matrix.used
        else:
            adapters += 2 * rank * (matrix.inputs + matrix.outputs) * matrix.used
            unneeded += 2 * (matrix.size + rank * matrix.inputs) * matrix.reads_embedding
    fold = folded // (micro_batch * context)  # twice per forward pass: torch tests a parametrisation before it uses it
    return FlopsPerToken(
        forward=weights + scores + adapters + 2 * fold,
        training=2 * weights + weight_gradients + 3 * (scores + adapters) + 4 * fold - unneeded,
    )


def kv_bytes_per_token(config: ArchitectureConfig, *, number_bytes: int) -> int:
    """Return the KV-cache bytes per token, while no sliding window is full."""
    return config.num_layers * _layer_bytes(config, number_bytes)


def kv_bytes(config: ArchitectureConfig, *, tokens: int, number_bytes: int) -> int:
    """Return the bytes of the cache after `tokens` tokens.

    A sliding layer keeps one token less than its window: the next token, for which the cache is kept, is the window's
    last.
    """
    positions = sum(
        tokens if config.is_global(layer) else min(tokens, (config.window or 0) - 1)
        for layer in range(config.num_layers)
    )
    return positions * _layer_bytes(config, number_bytes)


def expanded_kv_bytes_per_token(config: ArchitectureConfig, *, number_bytes: int) -> int | None:
    """Return what latent attention would hold if it kept every head's keys and values; None for other attention."""
    if not FAMILIES[config.family].latent:
        return None
    return config.num_layers * config.num_heads * (config.head_dim + config.value_dim) * number_bytes


def _layer_bytes(config: ArchitectureConfig, number_bytes: int) -> int:
    if FAMILIES[config.family].latent:
        return ((config.kv_rank or 0) + (config.rope_head_size or 0)) * number_bytes
    return 2 * config.num_kv_heads * config.head_dim * number_bytes
