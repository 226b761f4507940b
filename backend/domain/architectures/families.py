"""Decoder families that can be built, with their optional fields and limits. A table without arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

FamilyName = Literal[
    "llama", "gpt2", "mistral", "qwen3", "gemma3", "bloom", "smollm3", "mixtral", "qwen3_moe", "deepseek_v3"
]
FAMILY_NAMES: tuple[str, ...] = get_args(FamilyName)

HEADS_EQUAL = "every query head has its own keys and values"


@dataclass(frozen=True)
class Family:
    """Traits of a family of decoders.

    `network_class` is the transformers class named in `config.json`, which vLLM's registry knows too; `model_type` is
    its short name. `fields` are the optional fields of `ArchitectureConfig` that it has. `fixed` are fields that every
    family has and this one can't choose, with the reason. `tied`: whether its published networks tie embedding and
    head; None if some do. `defaults` are its own where they differ from the fields'.
    Most families are of Llama's parts, which are those that a family does not state.
    """

    name: str
    title: str
    summary: str
    network_class: str
    model_type: str
    attention: tuple[str, ...] = ("MHA", "GQA", "MQA")
    positions: str = "RoPE"
    norm: str = "RMSNorm"
    feed_forward: str = "SwiGLU"
    biases: str = "none"
    experts: str = "none"
    fields: tuple[str, ...] = ()
    fixed: Mapping[str, str] = field(default_factory=dict)
    tied: bool | None = None
    rotary: bool = True
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def latent(self) -> bool:
        """Return whether keys and values are kept compressed (multi-head latent attention)."""
        return "kv_rank" in self.fields

    @property
    def packs(self) -> bool:
        """Return whether rows can share a sequence without reading each other: positions must restart inside it."""
        return self.positions != "ALiBi"

    @property
    def has_experts(self) -> bool:
        """Return whether feed-forwards are experts chosen by a router."""
        return "num_experts" in self.fields


_FAMILIES = (
    Family(
        name="llama",
        title="Llama",
        summary="The standard modern decoder, supported by every tool.",
        network_class="LlamaForCausalLM",
        model_type="llama",
        fields=("head_size", "rope_theta"),
        defaults={"rope_theta": 10_000.0},
    ),
    Family(
        name="gpt2",
        title="GPT-2",
        summary="Learned positions, LayerNorm and GELU: the classic, for comparisons.",
        network_class="GPT2LMHeadModel",
        model_type="gpt2",
        attention=("MHA",),
        positions="learned",
        norm="LayerNorm",
        feed_forward="GELU",
        biases="everywhere",
        tied=True,
        rotary=False,
        fixed={
            "num_kv_heads": HEADS_EQUAL,
            "tie_embeddings": "GPT-2 ties embedding and head, and servers load no second matrix",
        },
    ),
    Family(
        name="mistral",
        title="Mistral",
        summary="Llama with sliding-window attention: a KV cache of bounded size.",
        network_class="MistralForCausalLM",
        model_type="mistral",
        fields=("head_size", "rope_theta", "window"),
        defaults={"rope_theta": 10_000.0},
    ),
    Family(
        name="qwen3",
        title="Qwen3",
        summary="Llama with normed queries and keys: more stable at high learning rates.",
        network_class="Qwen3ForCausalLM",
        model_type="qwen3",
        norm="RMSNorm, also of queries and keys",
        fields=("head_size", "rope_theta"),
        defaults={"rope_theta": 10_000.0},
    ),
    Family(
        name="gemma3",
        title="Gemma 3",
        summary="Sliding windows with a global layer every n-th: long contexts in a small cache.",
        network_class="Gemma3ForCausalLM",
        model_type="gemma3_text",
        positions="RoPE, one base for local and one for global layers",
        norm="RMSNorm before and after each part, also of queries and keys",
        feed_forward="GeGLU",
        fields=("head_size", "rope_theta", "window", "global_every", "local_rope_theta"),
        tied=True,
        fixed={"tie_embeddings": "Gemma 3 ties embedding and head, and servers load no second matrix"},
        defaults={"rope_theta": 1_000_000.0, "local_rope_theta": 10_000.0},
    ),
    Family(
        name="bloom",
        title="BLOOM",
        summary=(
            "ALiBi: attention biased by distance instead of positions, which extrapolates beyond the trained length."
        ),
        network_class="BloomForCausalLM",
        model_type="bloom",
        attention=("MHA",),
        positions="ALiBi",
        norm="LayerNorm, also of the embedding",
        feed_forward="GELU",
        biases="everywhere",
        tied=True,
        rotary=False,
        fixed={
            "num_kv_heads": HEADS_EQUAL,
            "feed_forward": "BLOOM's feed-forward is always 4 x width",
            "tie_embeddings": "BLOOM ties embedding and head, and servers load no second matrix",
        },
    ),
    Family(
        name="smollm3",
        title="SmolLM3",
        summary="Llama with every n-th layer without positions, for longer contexts.",
        network_class="SmolLM3ForCausalLM",
        model_type="smollm3",
        positions="RoPE, none in every n-th layer",
        fields=("rope_theta", "nope_every"),
        defaults={"rope_theta": 10_000.0},
    ),
    Family(
        name="mixtral",
        title="Mixtral",
        summary="Llama with a mixture of experts: a router picks a few for each token.",
        network_class="MixtralForCausalLM",
        model_type="mixtral",
        feed_forward="SwiGLU in each expert",
        experts="a router picks k in every layer",
        fields=("head_size", "rope_theta", "num_experts", "experts_per_token"),
        tied=None,
        defaults={"rope_theta": 10_000.0, "num_experts": 4, "experts_per_token": 2, "tie_embeddings": False},
    ),
    Family(
        name="qwen3_moe",
        title="Qwen3-MoE",
        summary="Qwen3 with many small experts, optionally dense in the first layers.",
        network_class="Qwen3MoeForCausalLM",
        model_type="qwen3_moe",
        norm="RMSNorm, also of queries and keys",
        feed_forward="SwiGLU in each expert",
        experts="a router picks k, in all layers but the first dense ones",
        fields=("head_size", "rope_theta", "num_experts", "experts_per_token", "expert_feed_forward", "dense_layers"),
        defaults={
            "rope_theta": 10_000.0,
            "num_experts": 8,
            "experts_per_token": 2,
            "expert_feed_forward": 96,
            "dense_layers": 0,
        },
    ),
    Family(
        name="deepseek_v3",
        title="DeepSeek-V3",
        summary="Multi-head latent attention with a small KV cache; shared and routed experts.",
        network_class="DeepseekV3ForCausalLM",
        model_type="deepseek_v3",
        attention=("MLA",),
        positions="RoPE in a part of each head",
        norm="RMSNorm, also of the latents",
        feed_forward="SwiGLU in each expert",
        experts="some always, and a router picks k more, in all layers but the first dense ones",
        fields=(
            "rope_theta",
            "num_experts",
            "experts_per_token",
            "expert_feed_forward",
            "shared_experts",
            "dense_layers",
            "query_rank",
            "kv_rank",
            "rope_head_size",
            "nope_head_size",
            "value_head_size",
        ),
        tied=False,
        fixed={
            "num_kv_heads": "all heads read one latent",
            "tie_embeddings": "DeepSeek-V3 has an untied head, which servers expect to load",
        },
        defaults={
            "rope_theta": 10_000.0,
            "num_experts": 8,
            "experts_per_token": 2,
            "expert_feed_forward": 96,
            "shared_experts": 1,
            "tie_embeddings": False,
        },
    ),
)

FAMILIES: dict[str, Family] = {family.name: family for family in _FAMILIES}

_LACKS: dict[str, str] = {
    "head_size": "has heads of width / heads",
    "rope_theta": "has no rotary positions",
    "local_rope_theta": "has no local layers with positions of their own",
    "nope_every": "has the same positions in every layer",
    "window": "lets every layer see the whole context",
    "global_every": "has no mix of local and global layers",
    "num_experts": "has one feed-forward in a layer, no experts",
    "experts_per_token": "has one feed-forward in a layer, no experts",
    "expert_feed_forward": "has one feed-forward in a layer, no experts",
    "shared_experts": "has no experts that every token uses",
    "dense_layers": "has the same feed-forward in every layer",
    "query_rank": "doesn't compress queries",
    "kv_rank": "doesn't compress keys and values",
    "rope_head_size": "applies rotary positions to whole heads",
    "nope_head_size": "applies rotary positions to whole heads",
    "value_head_size": "has values as wide as keys",
}
OPTIONAL_FIELDS = tuple(_LACKS)
_SPECIAL: dict[tuple[str, str], str] = {
    ("mixtral", "expert_feed_forward"): "gives feed_forward, which is each expert's size",
    ("mixtral", "dense_layers"): "has experts in every layer",
    ("deepseek_v3", "head_size"): "has heads of nope_head_size + rope_head_size",
    ("gpt2", "rope_theta"): "has learned positions",
    ("bloom", "rope_theta"): "has ALiBi, a penalty on distance, for positions",
}


def explain_missing(family: str, name: str) -> str | None:
    """Explain that a family lacks a field and name families that have it; None if it has the field.

    Example:
        >>> explain_missing("llama", "window")
        'Llama lets every layer see the whole context; Mistral or Gemma 3 can'
    """
    entry = FAMILIES[family]
    if name in entry.fixed:
        return entry.fixed[name]
    if name not in OPTIONAL_FIELDS or name in entry.fields:
        return None
    able = [other.title for other in _FAMILIES if name in other.fields]
    special = _SPECIAL.get((family, name))
    if special is not None:
        return f"{entry.title} {special}"
    others = f"{', '.join(able[:-1])} or {able[-1]}" if len(able) > 1 else able[0]
    return f"{entry.title} {_LACKS[name]}; {others} can"
