"""Read an architecture from a checkpoint's Hugging Face config.json. Loads no weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.families import FAMILIES
from backend.domain.json_values import FieldValues

Data = Mapping[str, Any]

CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
"""Names of the maximum sequence length in config.json."""

TIED_BY_DEFAULT = ("gpt2", "bloom", "gemma3_text", "smollm3")
GATED_NAMES = {
    "num_layers": "num_hidden_layers",
    "width": "hidden_size",
    "num_heads": "num_attention_heads",
    "context": "max_position_embeddings",
    "feed_forward": "intermediate_size",
}
"""Names in config.json of the fields that all families with RoPE, RMSNorm and gated feed-forwards have."""

GPT2_NAMES = {"num_layers": "n_layer", "width": "n_embd", "num_heads": "n_head", "context": "n_positions"}
QWEN3_MOE_NAMES = {"experts_per_token": "num_experts_per_tok", "expert_feed_forward": "moe_intermediate_size"}
DEEPSEEK_V3_NAMES = {
    **QWEN3_MOE_NAMES,
    "shared_experts": "n_shared_experts",
    "dense_layers": "first_k_dense_replace",
    "kv_rank": "kv_lora_rank",
    "rope_head_size": "qk_rope_head_dim",
    "nope_head_size": "qk_nope_head_dim",
    "value_head_size": "v_head_dim",
}


class _Inexpressible(Exception):
    """A trait that changes the counts."""


def read_shape(data: Data) -> ArchitectureConfig | None:
    """Read a config.json; None for another family, or where parameters would not be counted right.

    Traits that change outputs but no size, such as scaled rotary frequencies, are ignored.

    Example:
        >>> gpt2 = {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size":
        50257}
        >>> read_shape(gpt2).feed_forward
        3072
    """
    family = next((family for family in FAMILIES.values() if family.model_type == data.get("model_type")), None)
    if family is None:
        return None
    try:
        values = _READERS[family.name](data)
        if any(value is None for field, value in values.items() if field != "head_size"):
            return None  # else a missing key would get our default
        return ArchitectureConfig(family=family.name, **values)
    except (_Inexpressible, KeyError, TypeError, ValueError, ZeroDivisionError, AttributeError, ValidationError):
        return None


def has_window(data: Data) -> bool:
    """Return whether a config.json gives some layer a sliding window shorter than the context, by the rules of
    transformers.

    Example:
        >>> has_window({"model_type": "mistral"}), has_window({"model_type": "qwen3", "sliding_window": 4096})
        (True, False)
    """
    model_type, kinds = str(data.get("model_type")), data.get("layer_types")
    window = data.get("sliding_window", 4096 if model_type == "mistral" else None)
    context = data.get("max_position_embeddings")
    if isinstance(window, int) and isinstance(context, int) and window >= context:
        return False
    if isinstance(kinds, list):
        return any(str(kind).startswith(("sliding", "chunked")) for kind in kinds)
    if model_type.startswith("qwen") and not data.get("use_sliding_window"):
        return False
    return bool(window)


def _named(data: Data, names: Mapping[str, str]) -> FieldValues:
    return {field: data[name] for field, name in names.items()}


def _common(data: Data) -> dict[str, object]:
    return {
        "vocab_size": data["vocab_size"],
        "tie_embeddings": bool(data.get("tie_word_embeddings", data["model_type"] in TIED_BY_DEFAULT)),
    }


def _gated(data: Data, *, theta: float = 10_000.0, eps: float = 1e-6) -> FieldValues:
    """Return the fields of the families with RoPE, RMSNorm and gated feed-forwards."""
    if data.get("attention_bias") or data.get("mlp_bias"):
        raise _Inexpressible("biases")
    heads = data["num_attention_heads"]
    return {
        **_named(data, GATED_NAMES),
        **_common(data),
        "num_kv_heads": data.get("num_key_value_heads") or heads,
        "norm_eps": data.get("rms_norm_eps", eps),
        "rope_theta": _rope_theta(data, default=theta),
    }


def _rope_theta(data: Data, *, default: float, kind: str | None = None, old_name: str = "rope_theta") -> float:
    """Return the rotary base, from the current form or the older one."""
    rope = data.get("rope_parameters") or data.get("rope_scaling") or {}
    if kind is not None and kind in rope:
        rope = rope[kind]
    return float(rope.get("rope_theta") or data.get(old_name) or default)


def _llama(data: Data) -> dict[str, object]:
    return {**_gated(data), "head_size": data.get("head_dim")}


def _gpt2(data: Data) -> dict[str, object]:
    if data.get("add_cross_attention"):
        raise _Inexpressible("cross-attention")
    return {
        **_named(data, GPT2_NAMES),
        **_common(data),
        "feed_forward": data.get("n_inner") or 4 * data["n_embd"],
        "norm_eps": data.get("layer_norm_epsilon", 1e-5),
    }


def _mistral(data: Data) -> FieldValues:
    values = _gated(data)
    window = data.get("sliding_window", 4096) or values["context"]
    return {**values, "head_size": data.get("head_dim"), "window": min(window, values["context"])}


def _qwen3(data: Data) -> dict[str, object]:
    return {**_gated(data), "head_size": data.get("head_dim", 128)}


def _gemma3(data: Data) -> FieldValues:
    head = data.get("head_dim", 256)
    values = _gated(data)
    layers, every = values["num_layers"], data.get("sliding_window_pattern") or 6
    kinds = data.get("layer_types")
    if kinds is not None:
        if "sliding_window_pattern" not in data:
            every = kinds.index("full_attention") + 1 if "full_attention" in kinds else layers + 1
        if kinds != ["sliding_attention" if (layer + 1) % every else "full_attention" for layer in range(layers)]:
            raise _Inexpressible("order of local and global layers")
    return {
        **values,
        "head_size": head,
        "window": min(data.get("sliding_window") or 4096, values["context"]),
        "global_every": every,
        "rope_theta": _rope_theta(data, default=1_000_000.0, kind="full_attention"),
        "local_rope_theta": _rope_theta(
            data, default=10_000.0, kind="sliding_attention", old_name="rope_local_base_freq"
        ),
    }


def _bloom(data: Data) -> dict[str, object]:
    width = data.get("hidden_size") or data["n_embed"]
    return {
        "num_layers": data.get("n_layer") or data["num_hidden_layers"],
        "width": width,
        "num_heads": data.get("n_head") or data["num_attention_heads"],
        "context": data.get("seq_length") or 2048,
        "norm_eps": data.get("layer_norm_epsilon", 1e-5),
        **_common(data),
    }


def _smollm3(data: Data) -> FieldValues:
    return {**_gated(data, theta=2_000_000.0), "nope_every": data.get("no_rope_layer_interval") or 4}


def _mixtral(data: Data) -> dict[str, object]:
    return {
        **_gated(data, theta=1_000_000.0, eps=1e-5),
        "head_size": data.get("head_dim"),
        "num_experts": data.get("num_local_experts", 8),
        "experts_per_token": data.get("num_experts_per_tok", 2),
    }


def _qwen3_moe(data: Data) -> dict[str, object]:
    values = _gated(data)
    dense = list(data.get("mlp_only_layers") or [])
    if data.get("decoder_sparse_step", 1) != 1 or dense != list(range(len(dense))):
        raise _Inexpressible("order of layers with experts")
    return {
        **values,
        **_named(data, QWEN3_MOE_NAMES),
        "head_size": data.get("head_dim"),
        "num_experts": data.get("num_experts") or data["num_local_experts"],
        "dense_layers": len(dense),
    }


def _deepseek_v3(data: Data) -> dict[str, object]:
    if data.get("moe_layer_freq", 1) != 1:
        raise _Inexpressible("order of layers with experts")
    return {
        **_gated(data),
        **_named(data, DEEPSEEK_V3_NAMES),
        "num_kv_heads": data["num_attention_heads"],
        "num_experts": data.get("n_routed_experts") or data["num_local_experts"],
        "query_rank": data.get("q_lora_rank") or 0,
    }


_READERS: dict[str, Callable[[Data], dict[str, object]]] = {
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
