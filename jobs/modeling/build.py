"""From an ArchitectureConfig to a network with fresh weights, and back from a checkpoint's config. Knows no training."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from pydantic import ValidationError
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from backend.domain.architecture import ArchitectureConfig
from backend.errors import InvalidInput

INIT_STD = 0.02


def build_network(
    config: ArchitectureConfig,
    *,
    seed: int,
    bos_token_id: int | None = None,
    eos_token_id: int | None = None,
    pad_token_id: int | None = None,
) -> LlamaForCausalLM:
    """Build a Llama network with weights drawn from `seed`; the process's own random state is left alone.

    Weights are normal with deviation 0.02, and those that write to the residual stream are divided by sqrt(2 x layers), as GPT-2 did
    (Radford et al. 2019, section 2.3). fp32 on the CPU.
    """
    llama = LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.width,
        intermediate_size=config.feed_forward,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.context,
        rms_norm_eps=config.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        tie_word_embeddings=config.tie_embeddings,
        initializer_range=INIT_STD,
        bos_token_id=bos_token_id,
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = LlamaForCausalLM(llama)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.div_(math.sqrt(2 * config.num_layers))
    network.generation_config = GenerationConfig(bos_token_id=bos_token_id, eos_token_id=eos_token_id, pad_token_id=pad_token_id)
    return network


def config_from_checkpoint(folder: Path) -> ArchitectureConfig | None:
    """Read the architecture of a Llama checkpoint; None for another family or a variant that the form can't express."""
    try:
        data = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{folder.name} holds no readable config.json: {error}") from error
    if data.get("model_type") != "llama" or data.get("attention_bias") or data.get("mlp_bias"):
        return None
    heads, width = data.get("num_attention_heads"), data.get("hidden_size")
    rope = data.get("rope_parameters") or data.get("rope_scaling") or {}
    if rope.get("rope_type", "default") != "default" or data.get("head_dim") not in (None, width // heads):
        return None
    try:
        return ArchitectureConfig(
            num_layers=data["num_hidden_layers"],
            width=width,
            num_heads=heads,
            num_kv_heads=data.get("num_key_value_heads") or heads,
            context=data["max_position_embeddings"],
            vocab_size=data["vocab_size"],
            feed_forward=data["intermediate_size"],
            tie_embeddings=bool(data.get("tie_word_embeddings", False)),
            rope_theta=rope.get("rope_theta") or data.get("rope_theta", 10_000.0),
            norm_eps=data.get("rms_norm_eps", 1e-6),
        )
    except (KeyError, TypeError, ValidationError):
        return None
