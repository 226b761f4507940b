"""A validated architecture: the single schema behind form, YAML, command line and stored row."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Self

from pydantic import ValidationError, model_validator

from backend.domain.architectures.fields import ArchitectureFields
from backend.domain.architectures.rules import ImpossibleShape, fill_defaults, find_problems, find_unknown, problems_by_field


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


def problems_despite(given: Mapping[str, Any], *, unreadable: Collection[str] = ()) -> dict[str, str]:
    """Return what is wrong with the values given, by field, whatever the unreadable fields turn out to be.

    A value out of its bounds hides nothing either: what several fields make impossible together is found beside it.
    """
    sound = {name: value for name, value in given.items() if name not in unreadable}
    error = _error_of(sound)
    outside = {str(item["loc"][0]) for item in error.errors() if item["loc"]} if error else set()
    out_of_bounds = problems_by_field(error) if error and outside else {}
    sound = {name: value for name, value in sound.items() if name not in outside}
    filled = {**ArchitectureConfig().model_dump(), **fill_defaults(sound)}
    stand_in = {name: filled[name] for name in (*unreadable, *outside) if filled.get(name) is not None}
    other = {name: 2 * value + 2 for name, value in stand_in.items()}
    # what is said with either stand-in does not depend on it
    first, second = (problems_by_field(e) if (e := _error_of({**sound, **values})) else {} for values in (stand_in, other))
    return {name: words for name, words in first.items() if second.get(name) == words} | out_of_bounds


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
