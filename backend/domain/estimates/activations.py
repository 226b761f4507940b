"""Activations that autograd saves for the backward pass, in bytes, for every family. Pure.

Counts the tensors that the operators of transformers' modules save, each storage once: `low` bytes per value in bf16
autocast, 4 in fp32 (norms, residual stream, loss). Tests compare it with the real networks.
"""

from __future__ import annotations

from dataclasses import dataclass

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.cost import list_matrices
from backend.domain.architectures.families import FAMILIES

FLOAT, INTEGER = 4, 8  # bytes


@dataclass(frozen=True)
class SavedBytes:
    """Saved bytes: per token, per pair of a token and a position of its sequence, and independent of the batch."""

    per_token: int = 0
    per_pair: int = 0
    fixed: int = 0

    def __add__(self, other: SavedBytes) -> SavedBytes:
        return SavedBytes(self.per_token + other.per_token, self.per_pair + other.per_pair, self.fixed + other.fixed)

    def total(self, *, rows: int, length: int) -> int:
        """Return the bytes for a micro-batch of `rows` sequences of `length` tokens."""
        return rows * length * (self.per_token + self.per_pair * length) + self.fixed


@dataclass(frozen=True)
class ComputeTypes:
    """Number types of the forward pass: `low` is 2 bytes for bf16 autocast and 4 for fp32. `rank` is that of LoRA, None
    for full training.

    `gpu`: attention over keys and values of different widths is fused, which only GPUs do. `dropout`: the network drops
    activations. `held`: the frozen matrices are in as few bits already, or fewer, so that no copies of them are saved.
    """

    low: int = FLOAT
    rank: int | None = None
    gpu: bool = False
    dropout: bool = False
    held: bool = False

    @property
    def is_bf16(self) -> bool:
        """Return whether matrix products are computed in bf16."""
        return self.low < FLOAT

    def read(self, width: int, by: int) -> int:
        """Return the saved bytes of an fp32 input of `width` numbers that `by` linear layers read: in bf16 each casts
        its own copy.
        """
        return (by * self.low * width if self.is_bf16 else FLOAT * width) + self.adapted(by)

    @property
    def frozen(self) -> bool:
        """Return whether the network's own weights get no gradient."""
        return self.rank is not None

    def adapted(self, layers: int) -> int:
        """Return the bytes saved by the adapters of `count` linear layers: activations between the two matrices."""
        return layers * self.low * (self.rank or 0)

    def norm(self, width: int) -> int:
        """Return the bytes saved by an RMSNorm: its input and scale, and the normed input if its weight is trained."""
        return FLOAT * (width * (1 if self.frozen else 2) + 1)


def saved_in_block(config: ArchitectureConfig, layer: int, types: ComputeTypes) -> SavedBytes:
    """Return the saved bytes of one block, counted from 0."""
    saved = _saved_by_attention(config, layer, types) + _saved_by_feed_forward(config, layer, types)
    return saved + _saved_by_dropout(config, layer, types) if types.dropout else saved


def saved_outside(config: ArchitectureConfig, types: ComputeTypes) -> SavedBytes:
    """Return the saved bytes outside the blocks: token ids and norms. Those of the head are `loss_bytes`."""
    family, width = FAMILIES[config.family], config.width
    norm = types.norm(width) if family.rotary else FLOAT * (width + 2)
    if config.family == "bloom" and not types.frozen:
        norm += FLOAT * (width + 2)
    gemma = FLOAT * width if config.family == "gemma3" else 0
    dropped = (1 if types.gpu else FLOAT) * width if types.dropout and config.family == "gpt2" else 0
    return SavedBytes(per_token=INTEGER + norm + dropped, fixed=gemma)


def rotary_bytes(config: ArchitectureConfig, length: int) -> int:
    """Return the bytes of the rotary table, shared by all blocks (Gemma has one for each kind of layer)."""
    if not FAMILIES[config.family].rotary:
        return 0
    kinds = len({config.is_global(layer) for layer in range(config.num_layers)}) if config.family == "gemma3" else 1
    return kinds * 2 * FLOAT * length * (config.rope_head_size or config.head_dim)


def _saved_by_attention(config: ArchitectureConfig, layer: int, types: ComputeTypes) -> SavedBytes:
    family, width, low = FAMILIES[config.family], config.width, types.low
    unneeded = types.frozen and layer == 0  # nothing below the first adapter needs a gradient
    norm = 0 if unneeded else (types.norm(width) if family.rotary else FLOAT * (width + 2))
    output = types.adapted(1)
    if types.frozen and types.is_bf16 and config.family != "bloom":  # the adapter casts a copy of its own
        output += low * config.num_heads * config.value_dim
    if family.latent:
        return SavedBytes(norm + output) + _latent(config, types)
    heads, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    if config.family == "bloom":  # no fused kernel: scores and probabilities are saved
        scores = config.num_heads * (FLOAT + (low if types.is_bf16 else 0))
        return SavedBytes(norm + output + types.read(width, by=1) + low * 4 * heads, per_pair=scores)
    if config.family == "gpt2":
        return SavedBytes(norm + output + types.read(width, by=1) + low * 4 * heads + FLOAT * config.num_heads)
    saved = SavedBytes(norm + output + types.read(width, by=3) + FLOAT * config.num_heads) + _query_key_norms(
        config, types
    )
    if config.is_global(layer):
        return saved + SavedBytes(low * 2 * (heads + keys))
    return saved + SavedBytes(low * 4 * heads, per_pair=low)  # a float mask; keys and values repeated for every head


def _saved_by_dropout(config: ArchitectureConfig, layer: int, types: ComputeTypes) -> SavedBytes:
    """Return the bytes that dropout adds: masks, floats on a CPU, and attention weights where dropout rules out a fused
    kernel.

    GPT-2 and BLOOM also drop the residual branches.
    """
    low, heads = types.low, config.num_heads
    residual = 2 * (1 if types.gpu else low) * config.width if config.family in ("gpt2", "bloom") else 0
    if config.family == "bloom":
        return SavedBytes(residual, per_pair=heads * (1 + low if types.gpu else low if types.is_bf16 else 2 * FLOAT))
    if types.gpu:
        return SavedBytes(residual)
    if FAMILIES[config.family].latent:
        return SavedBytes(residual, per_pair=heads * 2 * FLOAT)
    pairs = heads * (3 * FLOAT + (low if types.is_bf16 else 0))
    repeated = low * 2 * (heads - config.num_kv_heads) * config.head_dim if config.is_global(layer) else 0
    mask = 0 if config.is_global(layer) else low  # shared by all heads, and not saved with dropout
    return SavedBytes(residual + repeated - FLOAT * heads, per_pair=pairs - mask)


def _query_key_norms(config: ArchitectureConfig, types: ComputeTypes) -> SavedBytes:
    heads = config.num_heads + config.num_kv_heads
    if "queries and keys" not in FAMILIES[config.family].norm:
        return SavedBytes()
    gemma = config.family == "gemma3"
    normed = 0 if types.frozen else (FLOAT if gemma else types.low) * config.head_dim
    after = types.norm(config.width) if gemma else 0  # Gemma also norms the output of attention
    return SavedBytes(
        heads * (FLOAT * (config.head_dim + 1) + normed) + after,
        fixed=FLOAT * 2 * (config.head_dim + config.width) if gemma else 0,
    )


def _latent(config: ArchitectureConfig, types: ComputeTypes) -> SavedBytes:
    low, heads, value = types.low, config.num_heads, config.value_dim
    rank, kv_rank, rope = config.query_rank or 0, config.kv_rank or 0, config.rope_head_size or 0
    normed = 0 if types.frozen else low
    saved = types.read(config.width, by=2)
    if rank:
        saved += FLOAT * (rank + 1) + normed * rank + types.read(rank, by=1)
    saved += FLOAT * (kv_rank + 1 + (0 if types.is_bf16 else rope)) + normed * kv_rank + types.read(kv_rank, by=1)
    if types.gpu:
        return SavedBytes(saved + low * 2 * heads * (config.head_dim + value) + FLOAT * heads)
    written = 0 if types.frozen and types.is_bf16 else low * heads * value
    return SavedBytes(saved + FLOAT * heads * (2 * config.head_dim + value) + written, per_pair=FLOAT * heads)


def _saved_by_feed_forward(config: ArchitectureConfig, layer: int, types: ComputeTypes) -> SavedBytes:
    family, width, low = FAMILIES[config.family], config.width, types.low
    if not family.rotary:  # GELU: BLOOM's saves only its input, GPT-2's each step of its formula
        steps = 2 if config.family == "bloom" else 5
        return SavedBytes(
            FLOAT * (width + 2) + types.read(width, by=1) + low * steps * config.feed_forward + types.adapted(1)
        )
    if config.has_experts(layer):
        return SavedBytes(types.norm(width) + _experts(config, types))
    norms, fixed = (2 * types.norm(width), 2 * FLOAT * width) if config.family == "gemma3" else (types.norm(width), 0)
    adapted = not family.has_experts
    read = types.read(width, by=2) if adapted or not types.frozen else 0
    return SavedBytes(norms + read + _gated(config.feed_forward, types, adapted=adapted), fixed=fixed)


def _gated(inner: int, types: ComputeTypes, *, adapted: bool) -> int:
    """Return bytes of a gated feed-forward: gate, its activation, the up projection, and their product where the down
    projection needs it.
    """
    if types.frozen and not adapted:
        return types.low * 3 * inner
    return types.low * 4 * inner + types.adapted(1)


def _experts(config: ArchitectureConfig, types: ComputeTypes) -> int:
    """Experts by grouped products: rows sorted by expert, fp32 even under autocast; the router's choice as integers."""
    picked, experts, width = config.experts_per_token or 0, config.num_experts or 0, config.width
    shared = (config.shared_experts or 0) * config.expert_size
    readers = 3 if shared and not types.frozen else 1  # the router, and the shared experts where they are trained
    saved = types.read(width, by=readers) - types.adapted(readers)
    router = FLOAT if config.family != "deepseek_v3" else types.low
    scale = FLOAT if config.family == "mixtral" else types.low
    saved += router * (experts + picked + 1) + picked * (4 * INTEGER + scale)
    if config.family == "deepseek_v3":  # chooses among groups first
        saved += 3 * INTEGER + experts
    saved += FLOAT * picked * (2 * width + 4 * config.expert_size)
    return saved + (_gated(shared, types, adapted=False) if shared else 0)


def copied_weight_bytes(config: ArchitectureConfig, types: ComputeTypes) -> int:
    """Return the bytes of saved copies of the blocks' weights: bf16 casts, and the experts with merged adapters."""
    total = 0
    for matrix in list_matrices(config):
        if matrix.part == "output_head":
            continue
        needed = matrix.copies - (matrix.reads_embedding if types.frozen else 0)
        folded = matrix.folded and types.frozen
        if types.is_bf16 and matrix.part != "experts":
            total += 0 if types.held and not matrix.folded else types.low * matrix.size * needed
            if types.rank:
                between = types.rank * matrix.adapter_ranks
                total += types.low * between * (matrix.inputs * needed + matrix.outputs * matrix.copies)
        elif folded:
            total += FLOAT * matrix.size * matrix.copies
    return total
