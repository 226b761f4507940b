"""Settings of a tokenizer's training."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from backend.domain.fields import setting, unless

KIND_LABELS = {"bpe": "Byte-level BPE", "unigram": "Unigram", "byte": "Bytes"}
KIND_TEXTS = {
    "bpe": "Frequent pieces of words become one token. Short sequences, encodes any text.",
    "unigram": "The most likely pieces; rare characters are encoded as bytes. Encodes any text.",
    "byte": "256 tokens, no training. Long sequences, the smallest vocabulary.",
}
MIN_VOCABULARY = {"bpe": 262, "unigram": 320, "byte": 0}
"""256 bytes and the special tokens; Unigram needs room for an alphabet, too; a byte tokenizer has its own."""
MAX_VOCABULARY = 200_000


class TokenizerConfig(BaseModel):
    """Kind and vocabulary of a tokenizer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["bpe", "unigram", "byte"] = setting(
        "bpe", "Kind", "Pieces of words (bpe is byte-level) or plain bytes.", choices=KIND_LABELS
    )
    vocab_size: int = setting(
        2048,
        "Vocabulary",
        "More tokens: shorter sequences, and a larger embedding. 2,048 suits a model of a million parameters, 32,000"
        " one of a billion; plain bytes always have 262.",
        ge=0,
        le=MAX_VOCABULARY,
        unit="tokens",
        step=256,
        used=(unless("kind", "byte"),),
    )
