"""Tiny networks of many families, made straight by transformers' own classes: what inspections are tested on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as t

from backend.db.tables import Checkpoint
from backend.services.context import Context
from jobs.modeling.checkpoints import save_checkpoint
from jobs.modeling.tokenizers import byte_tokenizer
from tests.support.networks.serving_networks import on_device
from tests.support.scenario import add_row

VOCAB = 262  # the byte tokenizer's
COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 96,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
GROUPED: dict[str, Any] = {**COMMON, "num_key_value_heads": 2, "head_dim": 8}


def _gpt2() -> Any:
    config = t.GPT2Config(
        vocab_size=VOCAB,
        n_embd=32,
        n_layer=3,
        n_head=4,
        n_positions=96,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=1,
    )
    return t.GPT2LMHeadModel(config)


def _gemma3() -> Any:
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    config = t.Gemma3TextConfig(
        **GROUPED,
        sliding_window=8,
        layer_types=kinds,
        query_pre_attn_scalar=8,
        final_logit_softcapping=20.0,
        tie_word_embeddings=True,
    )
    return t.Gemma3ForCausalLM(config)


def _bloom() -> Any:
    config = t.BloomConfig(
        vocab_size=VOCAB, hidden_size=32, n_layer=3, n_head=4, initializer_range=0.3, bos_token_id=0, eos_token_id=1
    )
    return t.BloomForCausalLM(config)


def _smollm3() -> Any:
    return t.SmolLM3ForCausalLM(
        t.SmolLM3Config(**{k: v for k, v in GROUPED.items() if k != "head_dim"}, no_rope_layers=[1, 0, 1])
    )


def _deepseek() -> Any:
    config = t.DeepseekV3Config(
        **{**COMMON, "num_key_value_heads": 4},
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=4,
        qk_nope_head_dim=8,
        v_head_dim=8,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        moe_intermediate_size=16,
        first_k_dense_replace=1,
    )
    return t.DeepseekV3ForCausalLM(config)


def _granite() -> Any:
    config = t.GraniteConfig(
        **{**COMMON, "num_key_value_heads": 2}, logits_scaling=4.0, embedding_multiplier=2.0, residual_multiplier=0.5
    )
    return t.GraniteForCausalLM(config)


MAKERS: dict[str, Callable[[], Any]] = {
    "gpt2": _gpt2,
    "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**GROUPED)),
    "mistral": lambda: t.MistralForCausalLM(t.MistralConfig(**GROUPED, sliding_window=8)),
    "qwen3": lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**GROUPED, tie_word_embeddings=True)),
    "gemma3": _gemma3,
    "bloom": _bloom,
    "smollm3": _smollm3,
    "mixtral": lambda: t.MixtralForCausalLM(t.MixtralConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2)),
    "qwen3_moe": lambda: t.Qwen3MoeForCausalLM(
        t.Qwen3MoeConfig(**GROUPED, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
    ),
    "deepseek_v3": _deepseek,
    "granite": _granite,
}


def make_network(family: str, *, seed: int = 0) -> Any:
    """Return a network with weights large enough that its distributions are far from uniform."""
    torch.manual_seed(seed)
    return on_device(MAKERS[family]())


def add_network(ctx: Context, name: str, *, family: str = "llama", seed: int = 0) -> str:
    """Insert a checkpoint with weights."""
    folder = ctx.artifacts.path(f"checkpoints/{name}")
    save_checkpoint(folder, model=make_network(family, seed=seed), tokenizer=byte_tokenizer(context=96), meta={})
    return add_row(ctx, Checkpoint(name=name, origin="added", folder=f"checkpoints/{name}", source=name, family=family))
