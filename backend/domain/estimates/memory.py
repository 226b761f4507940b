"""Peak memory of a training process by part, and the largest micro-batch that fits a device. Pure.

Saved activations are counted exactly (`activations`). The peak is the largest of three moments of a step: the start of
the backward pass (all activations and the logits), during it, and its end, when all gradients are allocated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from backend.domain.architectures.cost import count_lora_parameters, count_parameters
from backend.domain.architectures.families import FAMILIES
from backend.domain.estimates.activations import (
    FLOAT,
    INTEGER,
    ComputeTypes,
    copied_weight_bytes,
    rotary_bytes,
    saved_in_block,
    saved_outside,
)
from backend.domain.estimates.loss_chunks import loss_bytes
from backend.domain.estimates.optimizer_state import count_frozen, optimizer_bytes
from backend.domain.estimates.setting import HALF_BITS, TrainingSetting
from backend.domain.training.sharding import BUCKET_ELEMENTS

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
    logits, with_logits = loss_bytes(
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
