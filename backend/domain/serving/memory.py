"""Memory of a replica: weights, KV cache and runtime. The serving engine allocates by the same numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.cost import kv_bytes_per_token, list_matrices
from backend.domain.architectures.families import FAMILIES
from backend.domain.serving.precision import Precision

PAGE_TOKENS = 64
MAX_RUNNING = 16
CACHE_BYTES = {"cpu": 512 << 20, "cuda": 4 << 30}
"""Budget of the KV cache by device. At least a full context; on a GPU of known free memory, most of that."""

FREE_SHARE = 0.8
"""Share of a GPU's free memory, with the weights loaded, that the KV cache may take."""

NUMBER_BYTES = {"cpu": 4, "cuda": 2}
"""Weights and cache are fp32 on a CPU and bf16 on a GPU."""

FUSED_FAMILIES = frozenset({"llama", "mistral", "qwen3"})
"""Families whose layers the compiled library computes (see docs/decisions/0064); weights of 16 bits stay so there, in
precision float32.
"""

RUNTIME_BYTES = {"cpu": 440 << 20}
"""Resident size of a replica process without weights and cache, measured on x86-64 Linux. The size of a CUDA context
was not measured.
"""

SHARE_WEIGHTS = frozenset({"cpu"})
"""Devices on which the replicas of one checkpoint, precision and machine share weights (see docs/decisions/0066)."""


@dataclass(frozen=True)
class ReplicaMemory:
    """Bytes of one replica.

    Unknown parts are None and left out of the sum: the cache of a network of unknown shape, the runtime on a GPU.
    `shared_bytes` of the weights are held once by all replicas of a machine. `preparing_bytes`: at most as much as the
    first replica holds before it serves.
    """

    weight_bytes: int
    cache_bytes: int | None
    runtime_bytes: int | None
    shared_bytes: int = 0
    preparing_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """Sum of what is known, for the first replica of a machine."""
        return self.further_bytes + self.shared_bytes

    @property
    def further_bytes(self) -> int:
        """Sum of what is known, for a further replica on the same machine."""
        return self.weight_bytes - self.shared_bytes + (self.cache_bytes or 0) + (self.runtime_bytes or 0)

    def of_replicas(self, count: int) -> int:
        """Return the most bytes that replicas on one machine hold together, also while one prepares the weights."""
        return max(
            self.shared_bytes + count * self.further_bytes,
            self.preparing_bytes + (count - 1) * (self.runtime_bytes or 0),
        )


def replica_memory(
    *,
    parameters: int,
    shape: ArchitectureConfig | None,
    device: Literal["cpu", "cuda"],
    precision: Precision = "float32",
    is_16_bit: bool = False,
    context: int | None = None,
) -> ReplicaMemory:
    """Return the memory of one replica on a device; without a shape, every precision counts as float32.

    `is_16_bit`: the checkpoint's weights are bfloat16 or float16. `context`: the deployment's, in tokens, where it
    shortens the network's.

    >>> replica_memory(parameters=1_000_000, shape=None, device="cpu").weight_bytes
    4000000
    """
    cache = None
    if shape is not None:
        longest = min(shape.context, context or shape.context)
        per_token = kv_bytes_per_token(shape, number_bytes=NUMBER_BYTES[device])
        if FAMILIES[shape.family].latent:  # served without pages, one request at a time
            cache = per_token * longest
        else:
            page_bytes = per_token * PAGE_TOKENS
            cache = page_bytes * cache_pages(page_bytes, tokens=longest * MAX_RUNNING, context=longest, device=device)
    weights, runtime = parameters * NUMBER_BYTES[device], RUNTIME_BYTES.get(device)
    if device not in SHARE_WEIGHTS:
        return ReplicaMemory(weights, cache, runtime)
    served = weights
    if shape is not None and precision == "int8":
        served = int8_bytes(parameters, shape)
    elif shape is not None and (precision == "bfloat16" or (is_16_bit and shape.family in FUSED_FAMILIES)):
        served = short_bytes(parameters, shape)
    preparing = weights + (served if precision == "int8" else 0) + (runtime or 0)
    return ReplicaMemory(served, cache, runtime, shared_bytes=served, preparing_bytes=preparing)


def int8_bytes(parameters: int, shape: ArchitectureConfig) -> int:
    """Return the bytes of a network in int8: a byte per weight of a linear layer and a scale per output, four for every
    other parameter.

    A tied head is a matrix of its own then. Stacked experts and their routers stay float32.
    """
    linear = [matrix for matrix in list_matrices(shape) if not matrix.folded]
    quantised = sum(matrix.size * matrix.copies for matrix in linear)
    others = parameters - quantised + (shape.vocab_size * shape.width if shape.tie_embeddings else 0)
    return quantised + 4 * sum(matrix.outputs * matrix.copies for matrix in linear) + 4 * max(0, others)


def short_bytes(parameters: int, shape: ArchitectureConfig) -> int:
    """Return the bytes of a network in 16 bits: two per weight of a linear layer or of the embedding, four for every
    other parameter.
    """
    linear = sum(matrix.size * matrix.copies for matrix in list_matrices(shape) if not matrix.folded)
    short = min(parameters, linear + (0 if shape.tie_embeddings else shape.vocab_size * shape.width))
    return 2 * short + 4 * (parameters - short)


def cache_pages(page_bytes: int, *, tokens: int, context: int, device: str, budget_bytes: int | None = None) -> int:
    """Return the pages of a KV cache for `tokens` within a budget, at least one full context. Without: the device's."""
    affordable = (CACHE_BYTES.get(device, CACHE_BYTES["cpu"]) if budget_bytes is None else budget_bytes) // page_bytes
    return max(-(-context // PAGE_TOKENS) + 1, min(-(-tokens // PAGE_TOKENS), affordable))
