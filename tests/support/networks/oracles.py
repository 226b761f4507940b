"""Networks with known probabilities: checkpoints of the Llama family with hand-written weights.

A bigram oracle has one layer that adds nothing, one-hot embeddings as wide as the vocabulary, and log P in its head:
RMSNorm scales a one-hot vector by sqrt(V), so the head is divided by it and the logits after token t are exactly log
P[t].
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from backend.domain.architectures.config import ArchitectureConfig
from jobs.modeling.build import build_network
from jobs.modeling.checkpoints import save_checkpoint
from jobs.modeling.tokenizers import byte_tokenizer


def save_bigram(
    folder: Path, log_p: np.ndarray, tokenizer: PreTrainedTokenizerBase | None = None, *, context: int = 64
) -> Path:
    """Save a checkpoint in which the token after t has log-probabilities log_p[t]; shape [V, V], V that of the byte
    tokenizer.
    """
    tokenizer = tokenizer or byte_tokenizer(context=context)
    size = len(tokenizer)
    assert log_p.shape == (size, size)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=2,
        max_position_embeddings=context,
        rms_norm_eps=1e-12,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    network = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            weight.zero_()
            if "norm" in name:
                weight.fill_(1.0)
        network.model.embed_tokens.weight.copy_(torch.eye(size))
        network.lm_head.weight.copy_(torch.tensor(log_p.T / np.sqrt(size), dtype=torch.float32))
    network.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id
    )
    save_checkpoint(folder, model=network, tokenizer=tokenizer, meta={"config": {"objective": "sft"}})
    return folder


def save_uniform(folder: Path, *, context: int = 64) -> Path:
    """Save a checkpoint with a uniform distribution over tokens."""
    size = len(byte_tokenizer())
    return save_bigram(folder, np.full((size, size), -np.log(size)), context=context)


def random_bigram(seed: int) -> np.ndarray:
    """Return log P of a random bigram oracle over the byte tokenizer."""
    logits = np.random.default_rng(seed).normal(size=(len(byte_tokenizer()),) * 2) * 2
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def chain_bigram(text: str, *, rest: float = 1e-4) -> np.ndarray:
    """Return log P of an oracle that generates `text` after its first character, then the end token. No character may
    repeat.
    """
    tokenizer = byte_tokenizer()
    size, ids = len(tokenizer), tokenizer.encode(text, add_special_tokens=False)
    assert len(set(ids)) == len(ids)
    p = np.full((size, size), rest)
    for left, right in zip(ids, [*ids[1:], tokenizer.eos_token_id], strict=True):
        p[left, right] = 1.0
    return np.log(p / p.sum(-1, keepdims=True))


def save_random(folder: Path, *, seed: int = 3, context: int = 64) -> Path:
    """Save a small random network with attention, for comparisons with other programs."""
    tokenizer = byte_tokenizer(context=context)
    config = ArchitectureConfig(
        num_layers=2, width=32, num_heads=4, num_kv_heads=2, context=context, vocab_size=len(tokenizer), feed_forward=64
    )
    network = build_network(config, seed=seed, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(4.0)  # fresh weights give a nearly uniform distribution, larger ones a decisive one
    save_checkpoint(folder, model=network, tokenizer=tokenizer, meta={})
    return folder
