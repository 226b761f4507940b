"""A validated architecture: the single schema behind form, YAML, command line and stored row."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Self

from pydantic import ValidationError, model_validator

from backend.domain.architectures.fields import ArchitectureFields
from backend.domain.architectures.rules import (
    ImpossibleShape,
    fill_defaults,
    find_problems,
    find_unknown,
    problems_by_field,
)


class ArchitectureConfig(ArchitectureFields):
    """A validated architecture: family defaults filled in, impossible shapes refused with `ImpossibleShape`."""

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


def find_other_problems(fields: Mapping[str, Any], *, unreadable: Collection[str] = ()) -> dict[str, str]:
    """Return the problems of a config with unreadable or out-of-bounds fields, by field. Problems of several fields
    together are reported as well, if they hold for any value of those fields.
    """
    sound = {name: value for name, value in fields.items() if name not in unreadable}
    error = _error_of(sound)
    outside = {str(item["loc"][0]) for item in error.errors() if item["loc"]} if error else set()
    out_of_bounds = problems_by_field(error) if error and outside else {}
    sound = {name: value for name, value in sound.items() if name not in outside}
    filled = {**ArchitectureConfig().model_dump(), **fill_defaults(sound)}
    stand_in = {name: filled[name] for name in (*unreadable, *outside) if filled.get(name) is not None}
    other = {name: 2 * value + 2 for name, value in stand_in.items()}
    # a problem with both stand-ins does not depend on the unreadable field
    first, second = (
        problems_by_field(e) if (e := _error_of({**sound, **values})) else {} for values in (stand_in, other)
    )
    return {name: words for name, words in first.items() if second.get(name) == words} | out_of_bounds


def _error_of(values: Mapping[str, Any]) -> ValidationError | None:
    try:
        ArchitectureConfig.model_validate(values)
    except ValidationError as error:
        return error
    return None


FIELD_HELP: dict[str, str] = {
    "num_layers": "Number of blocks. Cost and parameters grow in proportion.",
    "width": "Size of the residual stream. Parameters grow with its square.",
    "num_heads": "Attention heads. Each has width / heads dimensions; 32 to 128 is usual.",
    "num_kv_heads": (
        "Heads with keys and values. As many as heads: multi-head. Fewer: grouped-query, a smaller cache. 1:"
        " multi-query."
    ),
    "context": "Longest sequence, in tokens. The training cost of attention grows with it.",
    "vocab_size": "Entries of the embedding; at least the size of the tokenizer.",
    "feed_forward": (
        "Inner width of each block's feed-forward; about 8/3 of width is usual for SwiGLU, 4 x width for GELU."
    ),
    "tie_embeddings": (
        "Use one matrix as input embedding and output head. Saves vocab x width parameters, which matters in small"
        " models."
    ),
    "norm_eps": "Epsilon of the norms. Rarely changed.",
    "head_size": "Dimensions of a head, if not width / heads. Attention and cache grow with it.",
    "rope_theta": (
        "Base of the rotary position frequencies. 10,000 suits contexts to some 4,096 tokens; longer ones use larger"
        " values."
    ),
    "local_rope_theta": "RoPE base of the local layers. 10,000 suits any usual window.",
    "nope_every": (
        "Every n-th layer has no positional encoding (NoPE), which helps beyond the trained length. 4 is usual."
    ),
    "window": "Tokens that a sliding-window layer attends to, and the limit of its KV cache.",
    "global_every": (
        "Every n-th layer attends to the whole context, the others to a window. 6 is usual: five local layers, one"
        " global."
    ),
    "num_experts": (
        "Feed-forwards in a layer, a few of which each token uses. Adds parameters at little cost per token."
    ),
    "experts_per_token": (
        "Experts that the router picks for each token. The cost per token grows with it; 2 to 8 is usual."
    ),
    "expert_feed_forward": "Inner width of one expert. Many small experts specialize more than a few large ones.",
    "shared_experts": "Experts that every token uses besides the routed ones, for common knowledge.",
    "dense_layers": "First layers with a dense feed-forward instead of experts, because early layers route badly.",
    "query_rank": "Rank of the query projection, which saves parameters in wide models. 0: full rank.",
    "kv_rank": (
        "Size of the latent that keys and values of all heads are computed from. The KV cache holds only this latent."
    ),
    "rope_head_size": "Dimensions of a head with rotary position, shared by all heads in the cache. Even.",
    "nope_head_size": "Dimensions of a head without position.",
    "value_head_size": "Dimensions of a head's values.",
}
