"""What the backward pass needs kept of the forward pass, byte by byte, for every family. Arithmetic.

Counted from what the operators of transformers' modules save for autograd, each storage once: with `low` bytes for what autocast
computes in bf16 and 4 for what stays in fp32 (norms, residual stream, loss). The tests hold it against the real networks.
"""

from __future__ import annotations

from dataclasses import dataclass

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.families import FAMILIES
from backend.domain.architectures.parameters import list_matrices

FLOAT, INTEGER = 4, 8  # bytes


@dataclass(frozen=True)
class Kept:
    """Bytes kept: for each token, for each pair of a token and a position of its sequence, and whatever the batch is."""

    per_token: int = 0
    per_pair: int = 0
    fixed: int = 0

    def __add__(self, other: Kept) -> Kept:
        return Kept(self.per_token + other.per_token, self.per_pair + other.per_pair, self.fixed + other.fixed)

    def total(self, *, rows: int, length: int) -> int:
        """Return the bytes for a micro-batch of `rows` sequences of `length` tokens."""
        return rows * length * (self.per_token + self.per_pair * length) + self.fixed


@dataclass(frozen=True)
class Numbers:
    """In what the forward pass computes: `low` is 2 for bf16 autocast and 4 for fp32. `rank` is that of LoRA, None for all weights.

    `gpu` says whether attention over keys and values of different widths is fused, which it is there alone. `dropout` says whether the
    network drops activations.
    """

    low: int = FLOAT
    rank: int | None = None
    gpu: bool = False
    dropout: bool = False

    @property
    def is_bf16(self) -> bool:
        """Whether matrix products are computed in bf16."""
        return self.low < FLOAT

    def read(self, width: int, by: int) -> int:
        """Return bytes kept of an fp32 input of `width` numbers that `by` linear layers read: in bf16 each casts a copy of its own."""
        return (by * self.low * width if self.is_bf16 else FLOAT * width) + self.adapted(by)

    @property
    def frozen(self) -> bool:
        """Whether the network's own weights get no gradient."""
        return self.rank is not None

    def adapted(self, layers: int) -> int:
        """Return bytes kept by the adapters of so many linear layers: what lies between their two matrices."""
        return layers * self.low * (self.rank or 0)

    def norm(self, width: int) -> int:
        """Return bytes kept by an RMSNorm: its input and scale, and the normed input if its weight is trained."""
        return FLOAT * (width * (1 if self.frozen else 2) + 1)


def kept_in_block(config: ArchitectureConfig, layer: int, numbers: Numbers) -> Kept:
    """Return what is kept of one block, counted from 0."""
    kept = _kept_by_attention(config, layer, numbers) + _kept_by_feed_forward(config, layer, numbers)
    return kept + _kept_by_dropout(config, layer, numbers) if numbers.dropout else kept


def kept_outside(config: ArchitectureConfig, numbers: Numbers) -> Kept:
    """Return what is kept below and above the blocks, the loss left out: token ids, norms, and the head's input and weights."""
    family, width = FAMILIES[config.family], config.width
    norm = numbers.norm(width) if family.rotary else FLOAT * (width + 2)
    if config.family == "bloom" and not numbers.frozen:
        norm += FLOAT * (width + 2)
    head = 0 if numbers.frozen else numbers.read(width, by=1)
    cast = numbers.low * width * config.vocab_size if numbers.is_bf16 else 0
    gemma = FLOAT * width if config.family == "gemma3" else 0
    dropped = (1 if numbers.gpu else FLOAT) * width if numbers.dropout and config.family == "gpt2" else 0
    return Kept(per_token=INTEGER + norm + head + dropped, fixed=cast + gemma)


def rotary_bytes(config: ArchitectureConfig, length: int) -> int:
    """Return the bytes of the rotary table, shared by all blocks (Gemma has one for each kind of layer)."""
    if not FAMILIES[config.family].rotary:
        return 0
    kinds = len({config.is_global(layer) for layer in range(config.num_layers)}) if config.family == "gemma3" else 1
    return kinds * 2 * FLOAT * length * (config.rope_head_size or config.head_dim)


def _kept_by_attention(config: ArchitectureConfig, layer: int, numbers: Numbers) -> Kept:
    family, width, low = FAMILIES[config.family], config.width, numbers.low
    unneeded = numbers.frozen and layer == 0  # nothing below the first adapter needs a gradient
    norm = 0 if unneeded else (numbers.norm(width) if family.rotary else FLOAT * (width + 2))
    output = numbers.adapted(1)
    if numbers.frozen and numbers.is_bf16 and config.family != "bloom":  # the adapter casts a copy of its own
        output += low * config.num_heads * config.value_dim
    if family.latent:
        return Kept(norm + output) + _latent(config, numbers)
    heads, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    if config.family == "bloom":  # no fused kernel: scores and what they become are kept
        scores = config.num_heads * (FLOAT + (low if numbers.is_bf16 else 0))
        return Kept(norm + output + numbers.read(width, by=1) + low * 4 * heads, per_pair=scores)
    if config.family == "gpt2":
        return Kept(norm + output + numbers.read(width, by=1) + low * 4 * heads + FLOAT * config.num_heads)
    kept = Kept(norm + output + numbers.read(width, by=3) + FLOAT * config.num_heads) + _query_key_norms(config, numbers)
    if config.is_global(layer):
        return kept + Kept(low * 2 * (heads + keys))
    return kept + Kept(low * 4 * heads, per_pair=low)  # a mask, in numbers; keys and values repeated for every head


def _kept_by_dropout(config: ArchitectureConfig, layer: int, numbers: Numbers) -> Kept:
    """What dropout adds: masks, which a CPU holds as numbers, and attention weights where dropping them leaves no fused kernel.

    GPT-2 and BLOOM drop also what is added to the residual stream.
    """
    low, heads = numbers.low, config.num_heads
    residual = 2 * (1 if numbers.gpu else low) * config.width if config.family in ("gpt2", "bloom") else 0
    if config.family == "bloom":
        return Kept(residual, per_pair=heads * (1 + low if numbers.gpu else low if numbers.is_bf16 else 2 * FLOAT))
    if numbers.gpu:
        return Kept(residual)
    if FAMILIES[config.family].latent:
        return Kept(residual, per_pair=heads * 2 * FLOAT)
    pairs = heads * (3 * FLOAT + (low if numbers.is_bf16 else 0))
    repeated = low * 2 * (heads - config.num_kv_heads) * config.head_dim if config.is_global(layer) else 0
    mask = 0 if config.is_global(layer) else low  # one for all heads, no longer kept
    return Kept(residual + repeated - FLOAT * heads, per_pair=pairs - mask)


def _query_key_norms(config: ArchitectureConfig, numbers: Numbers) -> Kept:
    heads = config.num_heads + config.num_kv_heads
    if "queries and keys" not in FAMILIES[config.family].norm:
        return Kept()
    gemma = config.family == "gemma3"
    normed = 0 if numbers.frozen else (FLOAT if gemma else numbers.low) * config.head_dim
    after = numbers.norm(config.width) if gemma else 0  # Gemma norms what attention writes, too
    return Kept(
        heads * (FLOAT * (config.head_dim + 1) + normed) + after, fixed=FLOAT * 2 * (config.head_dim + config.width) if gemma else 0
    )


def _latent(config: ArchitectureConfig, numbers: Numbers) -> Kept:
    low, heads, value = numbers.low, config.num_heads, config.value_dim
    rank, kv_rank, rope = config.query_rank or 0, config.kv_rank or 0, config.rope_head_size or 0
    normed = 0 if numbers.frozen else low
    kept = numbers.read(config.width, by=2)
    if rank:
        kept += FLOAT * (rank + 1) + normed * rank + numbers.read(rank, by=1)
    kept += FLOAT * (kv_rank + 1 + (0 if numbers.is_bf16 else rope)) + normed * kv_rank + numbers.read(kv_rank, by=1)
    if numbers.gpu:
        return Kept(kept + low * 2 * heads * (config.head_dim + value) + FLOAT * heads)
    written = 0 if numbers.frozen and numbers.is_bf16 else low * heads * value
    return Kept(kept + FLOAT * heads * (2 * config.head_dim + value) + written, per_pair=FLOAT * heads)


def _kept_by_feed_forward(config: ArchitectureConfig, layer: int, numbers: Numbers) -> Kept:
    family, width, low = FAMILIES[config.family], config.width, numbers.low
    if not family.rotary:  # GELU: BLOOM's keeps its input alone, GPT-2's each step of its formula
        steps = 2 if config.family == "bloom" else 5
        return Kept(FLOAT * (width + 2) + numbers.read(width, by=1) + low * steps * config.feed_forward + numbers.adapted(1))
    if config.has_experts(layer):
        return Kept(numbers.norm(width) + _experts(config, numbers))
    norms, fixed = (2 * numbers.norm(width), 2 * FLOAT * width) if config.family == "gemma3" else (numbers.norm(width), 0)
    adapted = not family.has_experts
    read = numbers.read(width, by=2) if adapted or not numbers.frozen else 0
    return Kept(norms + read + _gated(config.feed_forward, numbers, adapted=adapted), fixed=fixed)


def _gated(inner: int, numbers: Numbers, *, adapted: bool) -> int:
    """Return bytes of a gated feed-forward: gate, its activation, the other half, and their product where the last matrix needs it."""
    if numbers.frozen and not adapted:
        return numbers.low * 3 * inner
    return numbers.low * 4 * inner + numbers.adapted(1)


def _experts(config: ArchitectureConfig, numbers: Numbers) -> int:
    """Experts by grouped products: rows sorted by expert, fp32 even under autocast; the router's choice as integers."""
    picked, experts, width = config.experts_per_token or 0, config.num_experts or 0, config.width
    shared = (config.shared_experts or 0) * config.expert_size
    readers = 3 if shared and not numbers.frozen else 1  # the router, and the shared experts where they are trained
    kept = numbers.read(width, by=readers) - numbers.adapted(readers)
    router = FLOAT if config.family != "deepseek_v3" else numbers.low
    scale = FLOAT if config.family == "mixtral" else numbers.low
    kept += router * (experts + picked + 1) + picked * (4 * INTEGER + scale)
    if config.family == "deepseek_v3":  # chooses among groups first
        kept += 3 * INTEGER + experts
    kept += FLOAT * picked * (2 * width + 4 * config.expert_size)
    return kept + (_gated(shared, numbers, adapted=False) if shared else 0)


def copied_weight_bytes(config: ArchitectureConfig, numbers: Numbers) -> int:
    """Return the copies of the blocks' weights that are kept: in bf16 of all that is cast, with LoRA of experts with adapters folded in."""
    total = 0
    for matrix in list_matrices(config):
        if matrix.part == "output_head":
            continue
        needed = matrix.copies - (matrix.reads_embedding if numbers.frozen else 0)
        folded = matrix.folded and numbers.frozen
        if numbers.is_bf16 and matrix.part != "experts":
            total += numbers.low * matrix.size * needed
            if numbers.rank:
                between = numbers.rank * matrix.adapter_ranks
                total += numbers.low * between * (matrix.inputs * needed + matrix.outputs * matrix.copies)
        elif folded:
            total += FLOAT * matrix.size * matrix.copies
    return total
