"""The fields of an architecture and the sizes derived from them. `rules.py` checks them, `config.py` validates."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from backend.domain.architectures.families import FamilyName
from backend.domain.fields import setting


class ArchitectureFields(BaseModel):
    """The fields of a decoder of one of `families.FAMILIES`, and the sizes derived from them.

    Fields that the family does not have are None. `head_size` may be None in any family: then a head has width /
    num_heads dimensions. Title and description are the form's label and help.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    family: FamilyName = setting("llama", "Family", "The family, built as the transformers class of that name.")
    num_layers: int = setting(4, "Layers", "Number of blocks. Cost and parameters grow in proportion.", ge=1, le=256)
    width: int = setting(128, "Width", "Size of the residual stream. Parameters grow with its square.", ge=8, le=65536)
    num_heads: int = setting(
        4, "Heads", "Attention heads. Each has width / heads dimensions; 32 to 128 is usual.", ge=1, le=512
    )
    num_kv_heads: int = setting(
        4,
        "Key/value heads",
        "Heads with keys and values. As many as heads: multi-head. Fewer: grouped-query, a smaller cache. 1:"
        " multi-query.",
        ge=1,
        le=512,
    )
    context: int = setting(
        256,
        "Context, tokens",
        "Longest sequence, in tokens. The training cost of attention grows with it.",
        ge=8,
        le=1_048_576,
    )
    vocab_size: int = setting(
        2048, "Vocabulary, tokens", "Entries of the embedding; at least the size of the tokenizer.", ge=2, le=1_000_000
    )
    feed_forward: int = setting(
        384,
        "Feed-forward",
        "Inner width of each block's feed-forward; about 8/3 of width is usual for SwiGLU, 4 x width for GELU.",
        ge=8,
        le=262_144,
    )
    tie_embeddings: bool = setting(
        True,
        "Tied embeddings",
        "Use one matrix as input embedding and output head. Saves vocab x width parameters, which matters in"
        " small models.",
    )
    norm_eps: float = setting(1e-5, "Norm epsilon", "Epsilon of the norms. Rarely changed.", gt=0.0, le=0.1)
    head_size: int | None = setting(
        None,
        "Head size",
        "Dimensions of a head, if not width / heads. Attention and cache grow with it.",
        ge=1,
        le=1024,
    )
    rope_theta: float | None = setting(
        None,
        "RoPE base",
        "Base of the rotary position frequencies. 10,000 suits contexts to some 4,096 tokens; longer ones use"
        " larger values.",
        gt=1.0,
    )
    local_rope_theta: float | None = setting(
        None, "RoPE base, local layers", "RoPE base of the local layers. 10,000 suits any usual window.", gt=1.0
    )
    nope_every: int | None = setting(
        None,
        "Every n-th layer without",
        "Every n-th layer has no positional encoding (NoPE), which helps beyond the trained length. 4 is usual.",
        ge=1,
        le=256,
    )
    window: int | None = setting(
        None,
        "Window, tokens",
        "Tokens that a sliding-window layer attends to, and the limit of its KV cache.",
        ge=2,
        le=1_048_576,
    )
    global_every: int | None = setting(
        None,
        "Every n-th layer global",
        "Every n-th layer attends to the whole context, the others to a window. 6 is usual: five local layers,"
        " one global.",
        ge=1,
        le=256,
    )
    num_experts: int | None = setting(
        None,
        "Experts",
        "Feed-forwards in a layer, a few of which each token uses. Adds parameters at little cost per token.",
        ge=1,
        le=4096,
    )
    experts_per_token: int | None = setting(
        None,
        "Experts per token",
        "Experts that the router picks for each token. The cost per token grows with it; 2 to 8 is usual.",
        ge=1,
        le=4096,
    )
    expert_feed_forward: int | None = setting(
        None,
        "Expert size",
        "Inner width of one expert. Many small experts specialize more than a few large ones.",
        ge=1,
        le=262_144,
    )
    shared_experts: int | None = setting(
        None,
        "Shared experts",
        "Experts that every token uses besides the routed ones, for common knowledge.",
        ge=1,
        le=256,
    )
    dense_layers: int | None = setting(
        None,
        "Dense first layers",
        "First layers with a dense feed-forward instead of experts, because early layers route badly.",
        ge=0,
        le=256,
    )
    query_rank: int | None = setting(
        None,
        "Query latent",
        "Rank of the query projection, which saves parameters in wide models. 0: full rank.",
        ge=0,
        le=65536,
    )
    kv_rank: int | None = setting(
        None,
        "Key/value latent",
        "Size of the latent that keys and values of all heads are computed from. The KV cache holds only this latent.",
        ge=1,
        le=65536,
    )
    rope_head_size: int | None = setting(
        None,
        "Head, with position",
        "Dimensions of a head with rotary position, shared by all heads in the cache. Even.",
        ge=2,
        le=1024,
    )
    nope_head_size: int | None = setting(None, "Head, without", "Dimensions of a head without position.", ge=1, le=1024)
    value_head_size: int | None = setting(None, "Head, values", "Dimensions of a head's values.", ge=1, le=1024)

    @property
    def head_dim(self) -> int:
        """Dimensions of a head's queries and keys."""
        if self.nope_head_size is not None and self.rope_head_size is not None:
            return self.nope_head_size + self.rope_head_size
        return self.head_size or self.width // self.num_heads

    @property
    def value_dim(self) -> int:
        """Dimensions of a head's values."""
        return self.value_head_size or self.head_dim

    @property
    def expert_size(self) -> int:
        """Inner size of one expert: its own where the family has it, else the feed-forward's."""
        return self.expert_feed_forward or self.feed_forward

    def is_global(self, layer: int) -> bool:
        """Return whether a layer, counted from 0, attends to the whole context."""
        if self.window is None:
            return True
        # local layers have positions of their own, so they stay local in a window of any size
        if self.global_every is not None:
            return (layer + 1) % self.global_every == 0
        return self.window >= self.context

    def has_experts(self, layer: int) -> bool:
        """Return whether a layer, counted from 0, has experts."""
        return self.num_experts is not None and layer >= (self.dense_layers or 0)
