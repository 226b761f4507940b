"""Peak memory of a training process by part, and the largest micro-batch that fits a device. Pure.

The peak is the largest of three moments of a step: the start of the backward pass (all activations and the logits),
during it, and its end, when all gradients are allocated.

Saved activations are counted exactly, for every family: the tensors that the operators of transformers' modules save,
each storage once, `low` bytes per value in bf16 autocast, 4 in fp32 (norms, residual stream, loss). Tests compare them
with the real networks. The next-token loss takes the logits of a chunk of tokens, and the gradients computed with
them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.cost import count_lora_parameters, count_parameters, list_matrices
from backend.domain.architectures.families import FAMILIES
from backend.domain.estimates.optimizer_state import count_frozen, optimizer_bytes
from backend.domain.estimates.setting import HALF_BITS, TrainingSetting
from backend.domain.training.execution import BUCKET_ELEMENTS
from backend.domain.training.objectives import Objective

Moment = Literal["load", "loss", "backward", "update"]

GIB = 2**30
USUAL_DEVICES: dict[str, int] = {f"{size} GB": size * GIB for size in (8, 12, 16, 24, 40, 48, 80, 96, 141, 192)}
"""Memory sizes of common GPUs, in bytes, by label."""

RESERVED_BYTES = {"gpu": 700_000_000, "cpu": 1_000_000_000}
"""Memory unavailable to a run: CUDA context and desktop on a GPU, process and operating system on a CPU."""

FIRST_USE_BYTES = {"gpu": 0, "cpu": 30_000_000}
"""Memory of the libraries on a network's first run, whatever its size: threads, kernels and buffers
(docs/benchmarks/memory.md).
"""

MAX_MICRO_BATCH = 65_536  # of a run's config
QUANTISATION_BITS = 8 / 64 + 32 / (64 * 256)
"""Bits of a quantised number's constants, which are quantised themselves."""


class MemoryParts(BaseModel):
    """Memory of one training process at its peak, in bytes, by part.

    `logits` are those of one chunk. `temporary` are the operators' workspaces. `overhead` is that of the libraries.
    """

    model_config = ConfigDict(frozen=True)

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    temporary: int
    overhead: int


class MemoryEstimate(MemoryParts):
    """The peak's parts, which add up to `total`, and its moment. At the moment `loss` gradients are not yet computed,
    so they count only with gradient accumulation.
    """

    moment: Moment

    @property
    def allocated(self) -> int:
        """Bytes of tensors: everything but the libraries' overhead."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits + self.temporary

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.allocated + self.overhead

    @property
    def parts(self) -> dict[str, int]:
        """Bytes by part, in the order in which they are shown."""
        return {name: value for name, value in self.model_dump().items() if name != "moment"}

    def parts_within(self, num_bytes: int) -> dict[str, int]:
        """Return the parts of a smaller peak: less overhead of libraries, then workspaces, then all in proportion."""
        parts, excess = self.parts, max(0, self.total - num_bytes)
        for name in ("overhead", "temporary"):
            less = min(parts[name], excess)
            parts[name], excess = parts[name] - less, excess - less
        left = sum(parts.values())
        return {name: round(value * (1 - excess / left)) if left else value for name, value in parts.items()}


@dataclass(frozen=True)
class _Costs:
    """Terms of the three moments, in bytes. `inputs` are those of one block, which is all that activation recompute
    saves.

    `double` is the second copy of the embedding's gradient while the gradients of both its uses are added.
    """

    weights: int
    optimizer: int
    gradients: int
    head_gradient: int
    block_gradient: int
    double: int
    accumulates: bool
    blocks: tuple[int, ...]
    inputs: int
    recompute: bool
    shared: int
    outside: int
    logits: int
    with_logits: int
    work: int


def estimate_memory(
    setting: TrainingSetting, *, length: int | None = None, trained: int | None = None
) -> MemoryEstimate:
    """Estimate the peak memory of a training process by arithmetic alone.

    `length` is the longest sequence in tokens (default: the context, an upper bound for datasets of rows); `trained` is
    the number of its positions with a target (default: all). Weights and gradients are fp32, and bf16 is autocast over
    them; the optimizer's state is in `optimizer_bytes`.

    Example:
        >>> from backend.domain.architectures.config import ArchitectureConfig
        >>> estimate_memory(TrainingSetting(architecture=ArchitectureConfig(), micro_batch=16)).weights
        4461056
    """
    length = min(length or setting.context, setting.context)
    costs = _count(setting, length, min(trained or length, length))
    peak = max((_at_loss(costs), _during_backward(costs), _at_update(costs)), key=lambda moment: moment.total)
    peak = _share(setting, peak, costs)
    return peak.model_copy(update={"overhead": FIRST_USE_BYTES[setting.device]})


def largest_micro_batch(
    setting_at: Callable[[int], TrainingSetting], budget_bytes: float, *, calibration: float = 1.0
) -> int:
    """Return the largest micro-batch whose estimate, times `calibration`, fits a budget: 0 if no sequence does, at most
    MAX_MICRO_BATCH. `setting_at` returns the setting with a micro-batch.
    """

    def fits(micro_batch: int) -> bool:
        return estimate_memory(setting_at(micro_batch)).total * calibration <= budget_bytes

    if fits(MAX_MICRO_BATCH):
        return MAX_MICRO_BATCH
    low, high = 0, 1
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def usable_bytes(total_bytes: int, device: str) -> int:
    """Return the memory of a device that is available to a run."""
    return max(0, total_bytes - RESERVED_BYTES[device])


def _count(setting: TrainingSetting, length: int, trained: int) -> _Costs:
    config = setting.architecture
    types = ComputeTypes(
        2 if setting.precision == "bf16" else FLOAT,
        setting.lora_rank,
        gpu=setting.device == "gpu",
        dropout=setting.dropout,
        held=setting.base_bits is not None,
    )
    rows = setting.micro_batch * (2 if setting.objective.compares_pairs else 1)
    parts = count_parameters(config)
    base, embedding = sum(parts.values()), config.vocab_size * config.width
    adapters = count_lora_parameters(config, rank=setting.lora_rank) if setting.lora_rank else 0
    reference = base if setting.keeps_reference else 0
    frozen = min(setting.frozen_blocks, config.num_layers)
    updated = adapters or base - count_frozen(config, frozen)
    in_blocks = updated if adapters else updated - parts["output_head"] - (0 if frozen else parts["embedding"])
    head = 0 if adapters or (frozen and config.tie_embeddings) else FLOAT * embedding
    copies = copied_weight_bytes(config, types) // config.num_layers
    tokens = rows * length
    # copies of packed rows for attention
    copies += types.low * config.num_heads * config.value_dim * tokens if setting.packed else 0
    # blocks that no gradient reaches save nothing
    passed = range(min(frozen, config.num_layers - 1), config.num_layers)
    blocks = tuple(saved_in_block(config, layer, types).total(rows=rows, length=length) + copies for layer in passed)
    logits, with_logits = _loss_bytes(
        setting.objective,
        tokens=rows * trained,
        width=config.width,
        vocab_size=config.vocab_size,
        low=types.low,
        trains_head=not adapters,
        casts_head=not types.held,
    )
    return _Costs(
        weights=_base_bytes(setting, parts) + FLOAT * (adapters + reference + (updated if setting.average else 0)),
        optimizer=optimizer_bytes(setting),
        gradients=FLOAT * updated,
        head_gradient=head,
        block_gradient=FLOAT * in_blocks // len(blocks),
        double=head * (int(config.tie_embeddings) + int(setting.accumulates)),
        accumulates=setting.accumulates,
        blocks=blocks,
        inputs=FLOAT * config.width * tokens,
        recompute=setting.recompute,
        shared=rotary_bytes(config, length) + 2 * INTEGER * tokens,
        outside=saved_outside(config, types).total(rows=rows, length=length),
        logits=logits,
        with_logits=with_logits,
        work=tokens * _work_per_token(setting, types) + _matrix_in_work(setting, types),
    )


def _base_bytes(setting: TrainingSetting, parts: Mapping[str, int]) -> int:
    """Return the bytes of the base. In 16 bits are the matrices but for experts, not norms and biases. Quantised are
    the matrices of the blocks, with 0.127 bits of constants for each number, and embedding and head are in 16 bits
    (Dettmers et al. 2023, arXiv 2305.14314, section 3; not measured).
    """
    base, bits = sum(parts.values()), setting.base_bits
    if bits is None:
        return FLOAT * base
    if bits == HALF_BITS:
        held = base - sum(parts.get(name, 0) for name in ("norms", "biases", "router", "experts"))
        return 2 * held + FLOAT * (base - held)
    outside = parts["embedding"] + parts["output_head"]
    return round((base - outside) * (bits + QUANTISATION_BITS) / 8) + 2 * outside


def _work_per_token(setting: TrainingSetting, types: ComputeTypes) -> int:
    """Return the temporary bytes of the backward pass of one part of a block, as measured from the allocator's trace.

    The final norm: six times the residual stream in fp32. A gated feed-forward: both halves' gradients and the
    residual's. BLOOM's own GELU computes in five steps. Experts: rows once for each expert picked.
    """
    config = setting.architecture
    norm = 6 * FLOAT * config.width
    inner = config.feed_forward
    if config.family == "bloom":
        feed_forward = types.low * 5 * inner + 2 * FLOAT * config.width
    elif config.num_experts is not None:
        inner = config.expert_size
        feed_forward = FLOAT * (config.experts_per_token or 0) * (inner + 2 * config.width)
    else:
        feed_forward = types.low * 2 * inner + FLOAT * config.width
    if types.frozen and types.is_bf16 and FAMILIES[config.family].experts == "none":  # adapters read and write fp32
        feed_forward = max(feed_forward, FLOAT * (3 * inner + 7 * config.width) // 2)
    return max(norm, feed_forward)


def _matrix_in_work(setting: TrainingSetting, types: ComputeTypes) -> int:
    """Return the bytes of the matrix that exists at a feed-forward's peak beside the weights: the gradient of its last
    one, or the copy in 16 bits of a quantised one.
    """
    config = setting.architecture
    if setting.lora_rank is not None:
        return types.low * config.width * config.feed_forward if setting.base_bits in (4, 8) else 0
    experts = config.num_experts or 1
    return FLOAT * experts * config.width * (config.expert_size if config.num_experts else config.feed_forward)


def _at_loss(costs: _Costs) -> MemoryEstimate:
    saved = len(costs.blocks) * costs.inputs if costs.recompute else sum(costs.blocks)
    return MemoryEstimate(
        weights=costs.weights,
        gradients=costs.gradients if costs.accumulates else 0,
        optimizer=costs.optimizer,
        activations=saved + costs.shared + costs.outside,
        logits=costs.logits,
        temporary=costs.with_logits,
        overhead=0,
        moment="loss",
    )


def _during_backward(costs: _Costs) -> MemoryEstimate:
    """Return the peak of the backward pass through the blocks, from the top: activations freed, gradients allocated."""
    best, below = None, sum(costs.blocks)
    for done, block in enumerate(reversed(costs.blocks)):
        left = len(costs.blocks) - done
        # a block's saved tensors include its own input
        saved = (left - 1) * costs.inputs + block if costs.recompute else below
        below -= block
        arrived = min(costs.gradients, costs.head_gradient + done * costs.block_gradient)
        moment = MemoryEstimate(
            weights=costs.weights,
            gradients=costs.gradients if costs.accumulates else arrived,
            optimizer=costs.optimizer,
            activations=saved + costs.shared,
            logits=0,
            temporary=costs.work,
            overhead=0,
            moment="backward",
        )
        if best is None or moment.total > best.total:
            best = moment
    assert best is not None
    return best


def _at_update(costs: _Costs) -> MemoryEstimate:
    return MemoryEstimate(
        weights=costs.weights,
        gradients=costs.gradients,
        optimizer=costs.optimizer,
        activations=costs.inputs,
        logits=0,
        temporary=costs.double,
        overhead=0,
        moment="update",
    )


def _share(setting: TrainingSetting, peak: MemoryEstimate, costs: _Costs) -> MemoryEstimate:
    """Return the peak of one of several devices. By the documented behaviour of DDP, FSDP2 and DeepSpeed; not measured.

    DDP keeps a second copy of the gradients in its buckets. FSDP keeps a share of weights, gradients and moments, and
    gathers the weights of two blocks (the one in work and the next) beside embedding and head, as they are held:
    autocast converts them later. A GPU never holds more, as a network is sharded before it gets there; a process on a
    CPU does where it reads the network whole (`jobs/training/network/load.py`), and DeepSpeed's everywhere: of a
    large network that is the peak. ZeRO-3 keeps what FSDP does, ZeRO-2 all weights; both keep a second copy of the
    share that they update and a bucket of gradients. Offload moves share, gradients and moments off a GPU.
    """
    if setting.devices == 1 or setting.sharding == "none":
        return peak
    if setting.sharding == "ddp":
        return peak.model_copy(update={"temporary": peak.temporary + costs.gradients})
    shared = {name: -(-getattr(peak, name) // setting.devices) for name in ("weights", "gradients", "optimizer")}
    if setting.sharding in ("zero2", "zero3"):
        updated, bucket = -(-costs.gradients // setting.devices), min(FLOAT * BUCKET_ELEMENTS, costs.gradients)
        if setting.offload and setting.device == "gpu":
            updated, shared = 0, {**shared, "gradients": 0, "optimizer": 0}
        peak = peak.model_copy(update={"temporary": peak.temporary + updated + bucket})
    if setting.sharding == "zero2":
        return peak.model_copy(update={**shared, "weights": peak.weights})
    architecture = setting.architecture
    outside = (1 if architecture.tie_embeddings else 2) * architecture.vocab_size * architecture.width
    outside *= FLOAT if setting.base_bits is None else HALF_BITS // 8
    block = max(0, costs.weights - outside) // len(costs.blocks)
    gathered = outside + min(2, len(costs.blocks)) * block
    sharded = peak.model_copy(update={**shared, "temporary": peak.temporary + gathered})
    if costs.weights <= sharded.total or (setting.sharding == "fsdp" and setting.device == "gpu"):
        return sharded
    nothing = dict.fromkeys(("gradients", "optimizer", "activations", "logits", "temporary", "overhead"), 0)
    return MemoryEstimate(weights=costs.weights, **nothing, moment="load")


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
    """Return the saved bytes outside the blocks: token ids and norms. Those of the head are `_loss_bytes`."""
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


LOGITS_AT_ONCE_BYTES = 64 * 2**20
"""Bytes of one chunk of logits, in fp32. Smaller chunks cost time, as each reads and writes the head's gradient."""

PLAIN_COPIES = 3
"""Copies for objectives that need each token's log-probability, if one chunk fits: logits and two gradients."""


def chunk_rows(tokens: int, vocab_size: int, *, at_once_bytes: int = LOGITS_AT_ONCE_BYTES) -> int:
    """Return the tokens per chunk of logits: chunks of about one size.

    Example:
        >>> chunk_rows(4096, 32_000)
        512
    """
    most = max(1, min(tokens, at_once_bytes // (FLOAT * vocab_size)))
    return max(1, -(-tokens // max(-(-tokens // most), 1)))


def _loss_bytes(
    objective: Objective,
    *,
    tokens: int,
    width: int,
    vocab_size: int,
    low: int,
    trains_head: bool,
    casts_head: bool = True,
) -> tuple[int, int]:
    """Return (bytes of the logits, bytes allocated with them) at the moment of the loss: the hidden states, the head's
    copy and the gradients of both.

    `low` are the bytes of a number of a matrix product: 2 under autocast, where a chunk exists in both types for a
    moment; `casts_head`: so does the head, which has 4 bytes a number itself.
    """
    if not objective.facts.writes:  # one number a row
        return 0, 0
    head, hidden = width * vocab_size, FLOAT * width * tokens
    cast = low if low < FLOAT else 0
    copy = cast * head if casts_head else 0
    if not objective.predicts_tokens:
        if FLOAT * vocab_size * tokens <= LOGITS_AT_ONCE_BYTES:
            return PLAIN_COPIES * FLOAT * vocab_size * tokens, hidden + copy
        by_head = FLOAT * head if trains_head else 0
        return (2 * FLOAT + cast) * vocab_size * chunk_rows(tokens, vocab_size), hidden + copy + by_head
    by_head = (FLOAT + cast) * head if trains_head else 0
    return (FLOAT + cast) * vocab_size * chunk_rows(tokens, vocab_size), 2 * hidden + copy + by_head
