"""The fields of an architecture and the sizes derived from them. `rules.py` checks them, `config.py` validates."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from backend.domain.architectures.families import FamilyName


class ArchitectureFields(BaseModel):
    """The fields of a decoder of one of `families.FAMILIES`, and the sizes derived from them.

    Fields that the family does not have are None. `head_size` may be None in any family: then a head has width /
    num_heads dimensions.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    family: FamilyName = Field(default="llama", description="The family, built as the transformers class of that name.")
    num_layers: int = Field(default=4, ge=1, le=256, description="Decoder blocks.")
    width: int = Field(default=128, ge=8, le=65536, description="Size of the residual stream (hidden_size).")
    num_heads: int = Field(default=4, ge=1, le=512, description="Query heads.")
    num_kv_heads: int = Field(
        default=4,
        ge=1,
        le=512,
        description="Key and value heads; fewer than heads is grouped-query attention. As many when left out.",
    )
    context: int = Field(default=256, ge=8, le=1_048_576, description="Longest sequence in tokens.")
    vocab_size: int = Field(default=2048, ge=2, le=1_000_000, description="Entries of the tokenizer.")
    feed_forward: int = Field(
        default=384, ge=8, le=262_144, description="Inner size of the feed-forward (intermediate_size)."
    )
    tie_embeddings: bool = Field(
        default=True, description="Use one matrix for the input embedding and the output head."
    )
    norm_eps: float = Field(default=1e-5, gt=0.0, le=0.1, description="Epsilon of the norms.")
    head_size: int | None = Field(
        default=None, ge=1, le=1024, description="Numbers in a head; width / heads when left out."
    )
    rope_theta: float | None = Field(default=None, gt=1.0, description="Base of the rotary frequencies.")
    local_rope_theta: float | None = Field(
        default=None, gt=1.0, description="Base of the rotary frequencies in local layers."
    )
    nope_every: int | None = Field(default=None, ge=1, le=256, description="Every n-th layer has no positions.")
    window: int | None = Field(default=None, ge=2, le=1_048_576, description="Tokens that a sliding layer sees.")
    global_every: int | None = Field(default=None, ge=1, le=256, description="Every n-th layer sees the whole context.")
    num_experts: int | None = Field(
        default=None, ge=1, le=4096, description="Feed-forwards that a layer's router picks from."
    )
    experts_per_token: int | None = Field(
        default=None, ge=1, le=4096, description="Experts that the router picks for a token."
    )
    expert_feed_forward: int | None = Field(default=None, ge=1, le=262_144, description="Inner size of one expert.")
    shared_experts: int | None = Field(default=None, ge=1, le=256, description="Experts that every token uses.")
    dense_layers: int | None = Field(
        default=None, ge=0, le=256, description="First layers, with one feed-forward and no experts."
    )
    query_rank: int | None = Field(
        default=None, ge=0, le=65_536, description="Latent size of queries; 0 leaves them uncompressed."
    )
    kv_rank: int | None = Field(
        default=None, ge=1, le=65_536, description="Latent size of keys and values: what the cache holds."
    )
    rope_head_size: int | None = Field(
        default=None, ge=2, le=1024, description="Numbers of a head that carry the position."
    )
    nope_head_size: int | None = Field(
        default=None, ge=1, le=1024, description="Numbers of a head that carry no position."
    )
    value_head_size: int | None = Field(default=None, ge=1, le=1024, description="Numbers of a head's values.")

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
        if (
            self.global_every is not None
        ):  # local layers have positions of their own, so they stay local in a window of any size
            return (layer + 1) % self.global_every == 0
        return self.window >= self.context

    def has_experts(self, layer: int) -> bool:
        """Return whether a layer, counted from 0, has experts."""
        return self.num_experts is not None and layer >= (self.dense_layers or 0)
