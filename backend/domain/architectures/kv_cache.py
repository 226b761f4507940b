"""KV-cache bytes, as transformers holds the cache."""

from __future__ import annotations

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.families import FAMILIES


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
