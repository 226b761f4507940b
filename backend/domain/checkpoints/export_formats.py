"""Tables: export formats of checkpoints, and the families that GGUF supports."""

from __future__ import annotations

FORMATS: dict[str, str] = {
    "hf": "Safetensors folder for Hugging Face tools; adapters are not merged.",
    "merged": "The same, with an adapter merged into its base.",
    "gguf": "One file for llama.cpp and tools built on it, adapter merged.",
}
NUMBERS: dict[str, str] = {
    "f16": "16 bits: what most tools expect",
    "q8_0": "8 bits: half the size, nearly the same answers",
    "f32": "32 bits: exact, twice the size",
}
"""Precisions of the matrices in a GGUF file."""

GGUF_FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "gpt2", "gemma3_text")
"""transformers' model types that can be written as GGUF; each export is tested against the network."""


def gguf_refusal(family: str) -> str | None:
    """Return why a network of this transformers type can't be exported as GGUF; None if it can, judged by its name."""
    if family in GGUF_FAMILIES:
        return None
    known = ", ".join(name.removesuffix("_text") for name in GGUF_FAMILIES)
    return f"A model of the family {family} can't be exported as GGUF; supported are {known}."
