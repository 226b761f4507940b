"""Tables: export formats of checkpoints, and the families that GGUF supports."""

from __future__ import annotations

from typing import Literal

from backend.domain.json_values import JsonObject

FORMATS: dict[str, str] = {
    "hf": "Safetensors folder for Hugging Face tools; adapters are not merged.",
    "merged": "The same, with an adapter merged into its base.",
    "gguf": "One file for llama.cpp and tools built on it, adapter merged.",
}
GgufNumbers = Literal["f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "f32"]
NUMBERS: dict[GgufNumbers, str] = {
    "f16": "16 bits: what most tools expect",
    "bf16": "16 bits: exact for weights in bfloat16",
    "q8_0": "8 bits: half the size, nearly the same answers",
    "q6_k": "about 6.6 bits",
    "q5_k_m": "about 5.7 bits",
    "q4_k_m": "about 4.9 bits: what most people run",
    "q4_0": "about 4.6 bits: simpler, less exact",
    "f32": "32 bits: exact, twice the size",
}
"""Precisions of the matrices in a GGUF file, named as llama.cpp's."""

GGUF_FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "gpt2", "gemma3_text")
"""transformers' model types that can be written as GGUF; each export is tested against the network."""


NO_GGUF_CURE = "Export it as a folder instead; llama.cpp's own converter reads that."


def gguf_refusal(family: str) -> str | None:
    """Return why a network of this transformers type can't be exported as GGUF; None if it can, judged by its name."""
    if family in GGUF_FAMILIES:
        return None
    known = ", ".join(name.removesuffix("_text") for name in GGUF_FAMILIES)
    return f"A model of the family {family} can't be exported as GGUF; supported are {known}."


def gguf_tokenizer_refusal(described: JsonObject) -> str | None:
    """Return why a tokenizer, as its `tokenizer.json` describes it, can't be written as GGUF here; None if it can, as
    far as its kind tells.
    """
    before = described.get("pre_tokenizer") or {}
    kind, steps = described["model"]["type"], before.get("pretokenizers") or [before]
    if kind == "BPE" and any(step.get("type") == "ByteLevel" for step in steps):
        return None
    name = "SentencePiece BPE" if kind == "BPE" else kind
    return f"This tokenizer is {name}, and only byte-level BPE can be written as GGUF here."
