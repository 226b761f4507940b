"""Published decoders by name: architectures to start from. Sizes as in their `config.json`.

What a family here can't express is left out: Llama 3's scaled frequencies, which serve contexts beyond 8,192 tokens.
"""

from __future__ import annotations

from backend.domain.architectures.config import ArchitectureConfig


def _gpt2(num_layers: int, width: int, num_heads: int) -> ArchitectureConfig:
    return ArchitectureConfig(
        family="gpt2",
        num_layers=num_layers,
        width=width,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        context=1024,
        vocab_size=50_257,
        feed_forward=4 * width,
    )


def _llama3(
    num_layers: int, width: int, num_heads: int, feed_forward: int, *, head_size: int | None = None, tied: bool = True
) -> ArchitectureConfig:
    return ArchitectureConfig(
        num_layers=num_layers,
        width=width,
        num_heads=num_heads,
        num_kv_heads=8,
        head_size=head_size,
        context=8192,
        vocab_size=128_256,
        feed_forward=feed_forward,
        tie_embeddings=tied,
        rope_theta=500_000.0,
    )


def _smollm2(
    num_layers: int, width: int, num_heads: int, num_kv_heads: int, feed_forward: int, rope_theta: float
) -> ArchitectureConfig:
    return ArchitectureConfig(
        num_layers=num_layers,
        width=width,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        context=8192,
        vocab_size=49_152,
        feed_forward=feed_forward,
        rope_theta=rope_theta,
    )


def _qwen3(num_layers: int, width: int, num_heads: int, feed_forward: int, *, tied: bool = True) -> ArchitectureConfig:
    return ArchitectureConfig(
        family="qwen3",
        num_layers=num_layers,
        width=width,
        num_heads=num_heads,
        num_kv_heads=8,
        head_size=128,
        context=40_960,
        vocab_size=151_936,
        feed_forward=feed_forward,
        tie_embeddings=tied,
        norm_eps=1e-6,
        rope_theta=1_000_000.0,
    )


def _gemma3(num_layers: int, width: int, feed_forward: int) -> ArchitectureConfig:
    return ArchitectureConfig(
        family="gemma3",
        num_layers=num_layers,
        width=width,
        num_heads=4,
        num_kv_heads=1,
        head_size=256,
        context=32_768,
        vocab_size=262_144,
        feed_forward=feed_forward,
        norm_eps=1e-6,
        window=512,
        global_every=6,
    )


PUBLISHED = {
    "GPT-2 small (124M)": _gpt2(12, 768, 12),
    "GPT-2 medium (355M)": _gpt2(24, 1024, 16),
    "GPT-2 large (774M)": _gpt2(36, 1280, 20),
    "GPT-2 XL (1.6B)": _gpt2(48, 1600, 25),
    "SmolLM2 135M": _smollm2(30, 576, 9, 3, 1536, 100_000.0),
    "SmolLM2 360M": _smollm2(32, 960, 15, 5, 2560, 100_000.0),
    "SmolLM2 1.7B": _smollm2(24, 2048, 32, 32, 8192, 130_000.0),
    "SmolLM3 3B": ArchitectureConfig(
        family="smollm3",
        num_layers=36,
        width=2048,
        num_heads=16,
        num_kv_heads=4,
        context=65_536,
        vocab_size=128_256,
        feed_forward=11_008,
        norm_eps=1e-6,
        rope_theta=5_000_000.0,
        nope_every=4,
    ),
    "Qwen3 0.6B": _qwen3(28, 1024, 16, 3072),
    "Qwen3 1.7B": _qwen3(28, 2048, 16, 6144),
    "Qwen3 4B": _qwen3(36, 2560, 32, 9728),
    "Qwen3 8B": _qwen3(36, 4096, 32, 12_288, tied=False),
    "Gemma 3 270M": _gemma3(18, 640, 2048),
    "Gemma 3 1B": _gemma3(26, 1152, 6912),
    "TinyLlama 1.1B": ArchitectureConfig(
        num_layers=22,
        width=2048,
        num_heads=32,
        num_kv_heads=4,
        context=2048,
        vocab_size=32_000,
        feed_forward=5632,
        tie_embeddings=False,
    ),
    "Llama 3.2 1B": _llama3(16, 2048, 32, 8192),
    "Llama 3.2 3B": _llama3(28, 3072, 24, 8192),
    "Llama 3.1 8B": _llama3(32, 4096, 32, 14_336, tied=False),
    "Mistral 7B": ArchitectureConfig(
        family="mistral",
        num_layers=32,
        width=4096,
        num_heads=32,
        num_kv_heads=8,
        context=32_768,
        vocab_size=32_000,
        feed_forward=14_336,
        tie_embeddings=False,
        window=4096,
    ),
    "BLOOM 560M": ArchitectureConfig(
        family="bloom",
        num_layers=24,
        width=1024,
        num_heads=16,
        num_kv_heads=16,
        context=2048,
        vocab_size=250_880,
        feed_forward=4096,
    ),
}
"""Name to architecture, from small to large within a family."""
