"""The shape of a network, and what is impossible about it. Knows arithmetic, no tensors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from backend.domain.families import FamilyName
from backend.domain.shape_rules import ImpossibleShape, fill_defaults, find_problems, find_unknown, problems_by_field


class ArchitectureConfig(BaseModel):
    """The shape of a decoder of one of `families.FAMILIES`.

    Fields that a family has not are None. What it has and nobody gave is filled with the family's own. `head_size` alone may stay
    None: then a head has width / num_heads numbers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    family: FamilyName = Field(default="llama", description="The family, built as the transformers class of that name.")
    num_layers: int = Field(default=4, ge=1, le=256, description="Decoder blocks.")
    width: int = Field(default=128, ge=8, le=65536, description="Size of the residual stream (hidden_size).")
    num_heads: int = Field(default=4, ge=1, le=512, description="Query heads.")
    num_kv_heads: int = Field(
        default=4, ge=1, le=512, description="Key and value heads; fewer than heads is grouped-query attention. As many when left out."
    )
    context: int = Field(default=256, ge=8, le=1_048_576, description="Longest sequence in tokens.")
    vocab_size: int = Field(default=2048, ge=2, le=1_000_000, description="Entries of the tokenizer.")
    feed_forward: int = Field(default=384, ge=8, le=262_144, description="Inner size of the feed-forward (intermediate_size).")
    tie_embeddings: bool = Field(default=True, description="Use one matrix for the input embedding and the output head.")
    norm_eps: float = Field(default=1e-5, gt=0.0, le=0.1, description="Epsilon of the norms.")
    head_size: int | None = Field(default=None, ge=1, le=1024, description="Numbers in a head; width / heads when left out.")
    rope_theta: float | None = Field(default=None, gt=1.0, description="Base of the rotary frequencies.")
    local_rope_theta: float | None = Field(default=None, gt=1.0, description="Base of the rotary frequencies in local layers.")
    nope_every: int | None = Field(default=None, ge=1, le=256, description="Every n-th layer has no positions.")
    window: int | None = Field(default=None, ge=2, le=1_048_576, description="Tokens that a sliding layer sees.")
    global_every: int | None = Field(default=None, ge=1, le=256, description="Every n-th layer sees the whole context.")
    num_experts: int | None = Field(default=None, ge=1, le=4096, description="Feed-forwards that a layer's router picks from.")
    experts_per_token: int | None = Field(default=None, ge=1, le=4096, description="Experts that the router picks for a token.")
    expert_feed_forward: int | None = Field(default=None, ge=1, le=262_144, description="Inner size of one expert.")
    shared_experts: int | None = Field(default=None, ge=1, le=256, description="Experts that every token uses.")
    dense_layers: int | None = Field(default=None, ge=0, le=256, description="First layers, with one feed-forward and no experts.")
    query_rank: int | None = Field(default=None, ge=0, le=65_536, description="Latent size of queries; 0 leaves them uncompressed.")
    kv_rank: int | None = Field(default=None, ge=1, le=65_536, description="Latent size of keys and values: what the cache holds.")
    rope_head_size: int | None = Field(default=None, ge=2, le=1024, description="Numbers of a head that carry the position.")
    nope_head_size: int | None = Field(default=None, ge=1, le=1024, description="Numbers of a head that carry no position.")
    value_head_size: int | None = Field(default=None, ge=1, le=1024, description="Numbers of a head's values.")

    @property
    def head_dim(self) -> int:
        """Numbers in one head's queries and keys."""
        if self.nope_head_size is not None and self.rope_head_size is not None:
            return self.nope_head_size + self.rope_head_size
        return self.head_size or self.width // self.num_heads

    @property
    def value_dim(self) -> int:
        """Numbers in one head's values."""
        return self.value_head_size or self.head_dim

    @property
    def expert_size(self) -> int:
        """Inner size of one expert: its own where the family has it, else the feed-forward's."""
        return self.expert_feed_forward or self.feed_forward

    def is_global(self, layer: int) -> bool:
        """Whether a layer, counted from 0, is built to see the whole context."""
        if self.window is None:
            return True
        if self.global_every is not None:  # local layers have positions of their own, so they stay local in a window of any size
            return (layer + 1) % self.global_every == 0
        return self.window >= self.context

    def has_experts(self, layer: int) -> bool:
        """Whether a layer, counted from 0, has experts."""
        return self.num_experts is not None and layer >= (self.dense_layers or 0)

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        unknown = find_unknown(data, cls.model_fields)
        if unknown:
            raise ImpossibleShape(unknown)
        return fill_defaults(data)

    @model_validator(mode="after")
    def _check(self) -> Self:
        problems = find_problems(self)
        if problems:
            raise ImpossibleShape(problems)
        if self.head_size is not None and self.head_size * self.num_heads == self.width:
            object.__setattr__(self, "head_size", None)  # the same network is the same config
        return self


def problems_despite(given: Mapping[str, Any], *, unreadable: Collection[str] = ()) -> dict[str, str]:
    """Return what is wrong with the values given, by field, whatever the unreadable fields turn out to be.

    A value out of its bounds hides nothing either: what several fields make impossible together is found beside it.
    """
    sound = {name: value for name, value in given.items() if name not in unreadable}
    error = _error_of(sound)
    outside = {str(item["loc"][0]) for item in error.errors() if item["loc"]} if error else set()
    found = problems_by_field(error) if error and outside else {}
    sound = {name: value for name, value in sound.items() if name not in outside}
    filled = {**ArchitectureConfig().model_dump(), **fill_defaults(sound)}
    stand_in = {name: filled[name] for name in (*unreadable, *outside) if filled.get(name) is not None}
    other = {name: 2 * value + 2 for name, value in stand_in.items()}
    # what is said with either stand-in does not depend on it
    first, second = (problems_by_field(e) if (e := _error_of({**sound, **values})) else {} for values in (stand_in, other))
    return {name: words for name, words in first.items() if second.get(name) == words} | found


def _error_of(values: Mapping[str, Any]) -> ValidationError | None:
    try:
        ArchitectureConfig.model_validate(values)
    except ValidationError as error:
        return error
    return None


FIELD_HELP: dict[str, str] = {
    "num_layers": "How many blocks are stacked. More layers reason in more steps; cost and parameters grow in proportion.",
    "width": "How many numbers describe a token between blocks. Parameters grow with its square.",
    "num_heads": "How many places attention can look at once. Each head gets width / heads numbers; 32 to 128 is usual.",
    "num_kv_heads": "Heads with keys and values. As many as heads: multi-head. Fewer: grouped-query, a smaller cache. 1: multi-query.",
    "context": "The longest text, in tokens, that the network can read at once. Training cost of attention grows with it.",
    "vocab_size": "How many different tokens there are; must be at least what the tokenizer has.",
    "feed_forward": "Inner width of each block's feed-forward; about 8/3 of width is usual for SwiGLU, 4 x width for GELU.",
    "tie_embeddings": "Share one matrix between reading and predicting tokens. Saves vocab x width parameters, good for small networks.",
    "norm_eps": "Keeps the norms from dividing by zero. Leave it.",
    "head_size": "Numbers in a head, where it shall not be width / heads. Larger heads see finer; attention and cache grow with them.",
    "rope_theta": "Base of the rotary position frequencies. 10,000 suits contexts to some 4,096 tokens; longer ones use larger values.",
    "local_rope_theta": "Base of the rotary frequencies in layers that see only a window. 10,000 suits any window in use.",
    "nope_every": "Every n-th layer has no positions: it looks by content alone, which helps beyond the trained length. 4 is usual.",
    "window": "How many tokens back a sliding layer sees. Its cache stops growing there; layers above still pass on what is older.",
    "global_every": "Every n-th layer sees the whole context, the others a window. 6 is usual: five local, one global.",
    "num_experts": "Feed-forwards in a layer, of which each token uses a few. Adds parameters, hardly any cost for a token.",
    "experts_per_token": "How many experts the router picks for each token. Cost for a token grows with it; 2 to 8 is usual.",
    "expert_feed_forward": "Inner width of one expert. Many small experts learn finer roles than few large ones.",
    "shared_experts": "Experts that every token uses besides the picked ones: what all texts need is learned once.",
    "dense_layers": "How many of the first layers have one whole feed-forward and no experts; early layers route badly.",
    "query_rank": "Queries are squeezed through so many numbers, which saves parameters in wide networks. 0: not at all.",
    "kv_rank": "Keys and values of all heads are squeezed into so many numbers: that, and not the heads, is what the cache holds.",
    "rope_head_size": "How many numbers of each head carry the position; all heads share them in the cache. Even.",
    "nope_head_size": "How many numbers of each head compare content, without position.",
    "value_head_size": "How many numbers each head passes on.",
}
