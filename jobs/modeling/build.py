"""Build a network with fresh weights from an ArchitectureConfig, and set a config's dropout."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers
from transformers import (
    BloomConfig,
    DeepseekV3Config,
    Gemma3TextConfig,
    GenerationConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
)

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.families import FAMILIES
from backend.domain.architectures.hf_config import DEEPSEEK_V3_NAMES, GATED_NAMES, GPT2_NAMES, QWEN3_MOE_NAMES
from backend.errors import InvalidInput

RESIDUAL_WRITERS = (
    "o_proj.weight",
    "down_proj.weight",
    "experts.down_proj",
    "attention.dense.weight",
    "dense_4h_to_h.weight",
)
EXPERT_WEIGHTS = ("experts.gate_up_proj", "experts.down_proj")
GROUPED_ROW_BYTES = 16


def build_network(
    config: ArchitectureConfig,
    *,
    seed: int,
    bos_token_id: int | None = None,
    eos_token_id: int | None = None,
    pad_token_id: int | None = None,
    dropout: float = 0.0,
) -> PreTrainedModel:
    """Build a network of the config's family with weights drawn from `seed`; the process's random state is preserved.

    Weights are normal with deviation 0.02, in fp32 on the CPU. Those that write to the residual stream are divided by
    sqrt(2 x layers), as in GPT-2 (Radford et al. 2019, section 2.3; transformers' GPT-2 does so itself), except in
    Gemma, which normalises those writes.
    """
    made = make_config(config, bos_token_id=bos_token_id, eos_token_id=eos_token_id, pad_token_id=pad_token_id)
    set_dropout(made, dropout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: PreTrainedModel = getattr(transformers, FAMILIES[config.family].network_class)(made)
    if config.family not in ("gpt2", "gemma3"):
        with torch.no_grad():
            for name, weight in network.named_parameters():
                if name.endswith(RESIDUAL_WRITERS):
                    weight.div_(math.sqrt(2 * config.num_layers))
    network.generation_config = GenerationConfig(
        bos_token_id=bos_token_id, eos_token_id=eos_token_id, pad_token_id=pad_token_id
    )
    allow_any_experts(network)
    return network


def allow_any_experts(network: PreTrainedModel) -> None:
    """Support experts of any size: torch's grouped matmul needs rows of a multiple of 16 bytes, so others run one
    expert at a time.
    """
    experts = [weight for name, weight in network.named_parameters() if name.endswith(EXPERT_WEIGHTS)]
    if any(size * weight.element_size() % GROUPED_ROW_BYTES for weight in experts for size in weight.shape[1:]):
        network.set_experts_implementation("eager")


INIT_STD = 0.02
ROUTER_LOSS = 0.01
"""Weight of the load-balancing loss (Fedus et al. 2021, arXiv 2101.03961, section 2.2)."""


def make_config(
    config: ArchitectureConfig,
    *,
    bos_token_id: int | None = None,
    eos_token_id: int | None = None,
    pad_token_id: int | None = None,
) -> PreTrainedConfig:
    """Build the config of `config.json`, including its architecture class. Dropout is off in every family."""
    return _MAKERS[config.family](
        config,
        {
            "vocab_size": config.vocab_size,
            "tie_word_embeddings": config.tie_embeddings,
            "initializer_range": INIT_STD,
            "bos_token_id": bos_token_id,
            "eos_token_id": eos_token_id,
            "pad_token_id": pad_token_id,
        },
    )


def _named(config: ArchitectureConfig, names: Mapping[str, str]) -> dict[str, Any]:
    return {name: getattr(config, field) for field, name in names.items()}


def _gated(config: ArchitectureConfig, common: Mapping[str, object], **more: Any) -> dict[str, Any]:
    """Return the fields that all families with RoPE, RMSNorm and gated feed-forwards share."""
    return {
        **common,
        **_named(config, GATED_NAMES),
        "num_key_value_heads": config.num_kv_heads,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        **more,
    }


def _llama(config: ArchitectureConfig, common: Mapping[str, object]) -> PreTrainedConfig:
    return LlamaConfig(**_gated(config, common, head_dim=config.head_dim))


def _gpt2(config: ArchitectureConfig, common: Mapping[str, object]) -> PreTrainedConfig:
    return GPT2Config(
        **common,
        **_named(config, GPT2_NAMES),
        n_inner=config.feed_forward,
        layer_norm_epsilon=config.norm_eps,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )


def _mistral(config: ArchitectureConfig, common: Mapping[str, object]) -> PreTrainedConfig:
    window = None if config.is_global(0) else config.window
    return MistralConfig(**_gated(config, common, head_dim=config.head_dim, sliding_window=window))


def _qwen3(config: ArchitectureConfig, common: Mapping[str, object]) -> PreTrainedConfig:
    return Qwen3Config(**_gated(config, common, head_dim=config.head_dim))


def _gemma3(config: ArchitectureConfig, common: Mapping[str, object]) -> PreTrainedConfig:
    bases = {"full_attention": config.rope_theta, "sliding_attention": config.local_rope_theta}
    return Gemma3TextConfig(
        **_gated(
            config,
            common,
            head_dim=config.head_dim,
            query_pre_attn_scalar=config.head_dim,
            sliding_window=config.window,
            sliding_window_pattern=config.global_every,  # the same as layer_types, for tools that do not read them
            layer_types=[
                "full_attention" if config.is_global(layer) else "sliding_attention"
                for layer in range(config.num_layers)
            ],
            rope_parameters={kind: {"rope_type": "default", "rope_theta": base} for kind, base in bases.items()},
        )
    )


def _bloom(config: ArchitectureConfig, common: Mapping[str, object]) -> PreTrainedConfig:
    return BloomConfig(
        **common,
        hidden_size=config.width,
        n_layer=config.num_layers,
        n_head=config.num_heads,
        layer_norm_epsilon=config.norm_eps,
        seq_length=config.context,  # ALiBi has no position table: servers read the trained length from this field
    )


def _smollm3(config: ArchitectureConfig, common: Mapping[str, object]) -> PreTrainedConfig:
    assert config.nope_every is not None
    with_rope = [int((layer + 1) % config.nope_every != 0) for layer in range(config.num_layers)]
    return SmolLM3Config(**_gated(config, common, no_rope_layers=with_rope, no_rope_layer_interval=config.nope_every))


def _mixtral(config: ArchitectureConfig, common: Mapping[str, object]) -> PreTrainedConfig:
    experts = {
        "num_local_experts": config.num_experts,
        "num_experts_per_tok": config.experts_per_token,
        "router_aux_loss_coef": ROUTER_LOSS,
    }
    return MixtralConfig(**_gated(config, common, head_dim=config.head_dim, **experts))


def _qwen3_moe(config: ArchitectureConfig, common: Mapping[str, object]) -> PreTrainedConfig:
    return Qwen3MoeConfig(
        **_gated(
            config,
            common,
            **_named(config, QWEN3_MOE_NAMES),
            head_dim=config.head_dim,
            num_experts=config.num_experts,
            mlp_only_layers=list(range(config.dense_layers or 0)),
            norm_topk_prob=True,
            router_aux_loss_coef=ROUTER_LOSS,
        )
    )


def _deepseek_v3(config: ArchitectureConfig, common: Mapping[str, object]) -> PreTrainedConfig:
    return DeepseekV3Config(
        **_gated(
            config,
            common,
            **_named(config, DEEPSEEK_V3_NAMES),
            n_routed_experts=config.num_experts,
            q_lora_rank=config.query_rank or None,
            n_group=1,  # all experts compete: groups matter only across machines
            topk_group=1,
            routed_scaling_factor=1.0,
            norm_topk_prob=True,
            num_nextn_predict_layers=0,
        )
    )


_MAKERS: dict[str, Callable[[ArchitectureConfig, dict[str, object]], PreTrainedConfig]] = {
    "llama": _llama,
    "gpt2": _gpt2,
    "mistral": _mistral,
    "qwen3": _qwen3,
    "gemma3": _gemma3,
    "bloom": _bloom,
    "smollm3": _smollm3,
    "mixtral": _mixtral,
    "qwen3_moe": _qwen3_moe,
    "deepseek_v3": _deepseek_v3,
}


FIELDS = (
    "attention_dropout",
    "attn_pdrop",
    "attn_dropout",
    "hidden_dropout",
    "residual_dropout",
    "resid_dropout",
    "resid_pdrop",
    "embedding_dropout",
    "embed_dropout",
    "embd_pdrop",
    "dropout",
)
"""Names of dropout inside and between blocks. Excluded: those of classifiers, and `layerdrop`, which drops blocks."""


def set_dropout(config: Any, share: float) -> None:
    """Set all dropout of a transformers config before its network is built; 0 disables the base's own.

    Llama-like families drop attention weights only, GPT-2 and BLOOM residual writes as well. Raises InvalidInput for
    dropout in a family that has none.
    """
    inner = config.get_text_config()
    fields = [name for name in FIELDS if isinstance(getattr(inner, name, None), (int, float))]
    if share and not fields:
        raise InvalidInput(
            f"Models of the family {config.model_type} have no dropout, and dropout is {share:g}.",
            remedy="Set dropout to 0; weight_decay or fewer epochs also reduce overfitting.",
            field="dropout",
        )
    for name in fields:
        setattr(inner, name, share)
