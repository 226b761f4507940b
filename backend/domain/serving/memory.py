"""Memory of a replica: weights, KV cache and runtime. Arithmetic; the serving engine allocates its cache by the same numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.families import FAMILIES
from backend.domain.architectures.kv_cache import kv_bytes_per_token

PAGE_TOKENS = 64
MAX_RUNNING = 16
CACHE_BYTES = {"cpu": 512 << 20, "cuda": 4 << 30}
"""Budget of the KV cache by device. At least one full context is allocated."""

NUMBER_BYTES = {"cpu": 4, "cuda": 2}
"""Weights and cache are fp32 on a CPU and bf16 on a GPU."""

RUNTIME_BYTES = {"cpu": 440 << 20}
"""Resident size of a replica process without weights and cache, measured on x86-64 Linux. The size of a CUDA context was not measured."""


@dataclass(frozen=True)
class ReplicaMemory:
    """Bytes of one replica.

    Unknown parts are None and left out of the sum: the cache of a network of unknown shape, the runtime on a GPU.
    """

    weight_bytes: int
    cache_bytes: int | None
    runtime_bytes: int | None

    @property
    def total_bytes(self) -> int:
        """Sum of what is known."""
        return self.weight_bytes + (self.cache_bytes or 0) + (self.runtime_bytes or 0)


def replica_memory(*, parameters: int, shape: ArchitectureConfig | None, device: Literal["cpu", "cuda"]) -> ReplicaMemory:
    """Return the memory of one replica on a device.

    >>> replica_memory(parameters=1_000_000, shape=None, device="cpu").weight_bytes
    4000000
    """
    cache = None
    if shape is not None:
        per_token = kv_bytes_per_token(shape, number_bytes=NUMBER_BYTES[device])
        if FAMILIES[shape.family].latent:  # served without pages, one request at a time
            cache = per_token * shape.context
        else:
            page_bytes = per_token * PAGE_TOKENS
            cache = page_bytes * cache_pages(page_bytes, tokens=shape.context * MAX_RUNNING, context=shape.context, device=device)
    return ReplicaMemory(parameters * NUMBER_BYTES[device], cache, RUNTIME_BYTES.get(device))


def cache_pages(page_bytes: int, *, tokens: int, context: int, device: str) -> int:
    """Return the pages of a KV cache for `tokens` within the device's budget, at least one full context."""
    affordable = CACHE_BYTES.get(device, CACHE_BYTES["cpu"]) // page_bytes
    return max(-(-context // PAGE_TOKENS) + 1, min(-(-tokens // PAGE_TOKENS), affordable))
