"""Count a network's parameters by matrix and by component; counts equal those of the built network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
