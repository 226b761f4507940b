"""An architecture: the single schema behind form, YAML, command line and stored row, its family defaults and checks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, model_validator

from backend.domain.architectures.families import FAMILIES, OPTIONAL_FIELDS, Family, FamilyName, explain_missing
from backend.domain.fields import setting
from backend.domain.validation import describe_fault, is_stored


class ArchitectureConfig(BaseModel):
    """A decoder of one of `families.FAMILIES`: family defaults filled in, impossible shapes refused with
    `ImpossibleShape`.

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

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any, info: ValidationInfo) -> Any:
        if not isinstance(data, Mapping):
            return data
        if not is_stored(info) and (unknown := _find_unknown(data, cls.model_fields)):
            raise ImpossibleShape(unknown)
        return fill_defaults(data)

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> Self:
        if not is_stored(info) and (problems := _find_problems(self)):
            raise ImpossibleShape(problems)
        if self.head_size is not None and self.head_size * self.num_heads == self.width:
            object.__setattr__(self, "head_size", None)  # the same network is the same config
        return self

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


@dataclass(frozen=True)
class ShapeProblem:
    """A problem of a shape: the field to change, and the message."""

    field: str
    message: str


class ImpossibleShape(ValueError):
    """Raised by a shape's validator: `problems`, messages joined by semicolons, each with its field's name."""

    def __init__(self, problems: list[ShapeProblem]) -> None:
        super().__init__("; ".join(p.message if p.field in p.message else f"{p.field}: {p.message}" for p in problems))
        self.problems = tuple(problems)


def problems_by_field(error: ValidationError) -> dict[str, str]:
    """Return the messages of an ArchitectureConfig's validation error by field."""
    messages: dict[str, str] = {}
    for item in error.errors():
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, ImpossibleShape):
            for problem in cause.problems:
                message = problem.message[:1].upper() + problem.message[1:] + "."
                messages[problem.field] = (
                    f"{messages[problem.field]} {message}" if problem.field in messages else message
                )
        elif item["loc"]:
            text = describe_fault(item)
            messages[str(item["loc"][0])] = f"{text[:1].upper()}{text[1:]}."
        else:
            messages["family"] = str(item["msg"])
    return messages


def fill_defaults(values: Mapping[str, Any]) -> dict[str, object]:
    """Fill in the family's defaults. Never raises; values are checked later."""
    data = {name: value for name, value in values.items() if value is not None}
    family = FAMILIES.get(str(data.get("family", "llama")))
    if family is None:
        return data
    layers, width, heads = (
        _number(data, "num_layers", 4),
        _number(data, "width", 128),
        max(_number(data, "num_heads", 4), 1),
    )
    context, head = _number(data, "context", 256), width // heads
    derived: dict[str, object] = {
        "num_kv_heads": data.get("num_heads", 4),
        "window": max(context // 2, 2),
        "global_every": max(min(6, layers), 1),
        "nope_every": max(min(4, layers), 2),
        "dense_layers": max(min(1, layers - 1), 0),
        "query_rank": max(width // 2, 1),
        "kv_rank": max(width // 4, 1),
        "rope_head_size": max(head // 4 * 2, 2),
        "nope_head_size": max(head, 1),
        "value_head_size": max(head, 1),
    }
    mine = {name: value for name, value in derived.items() if name in family.fields or name == "num_kv_heads"}
    if not family.rotary:
        mine["feed_forward"] = 4 * width
    return {**mine, **family.defaults, **data}


_OTHER_NAMES: dict[str, str] = {
    "model_type": "family",
    "hidden_size": "width",
    "n_embd": "width",
    "num_hidden_layers": "num_layers",
    "n_layer": "num_layers",
    "num_attention_heads": "num_heads",
    "n_head": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "head_dim": "head_size",
    "intermediate_size": "feed_forward",
    "n_inner": "feed_forward",
    "max_position_embeddings": "context",
    "n_positions": "context",
    "tie_word_embeddings": "tie_embeddings",
    "rms_norm_eps": "norm_eps",
    "sliding_window": "window",
    "num_local_experts": "num_experts",
    "n_routed_experts": "num_experts",
    "num_experts_per_tok": "experts_per_token",
    "moe_intermediate_size": "expert_feed_forward",
    "n_shared_experts": "shared_experts",
    "first_k_dense_replace": "dense_layers",
    "q_lora_rank": "query_rank",
    "kv_lora_rank": "kv_rank",
    "qk_rope_head_dim": "rope_head_size",
    "qk_nope_head_dim": "nope_head_size",
    "v_head_dim": "value_head_size",
}
"""transformers' names of the fields."""


def _find_unknown(names: Mapping[str, Any], fields: Collection[str]) -> list[ShapeProblem]:
    """Return a problem for each unknown field name, with the nearest known one."""
    problems = []
    for name in (str(key) for key in names if key not in fields):
        near = _OTHER_NAMES.get(name) or next(iter(get_close_matches(name, fields, n=1)), None)
        cure = (
            f"it is called {near} here"
            if name in _OTHER_NAMES
            else f"perhaps {near} is meant"
            if near
            else f"there are {', '.join(fields)}"
        )
        problems.append(ShapeProblem(near or "family", f"an architecture has no field {name[:60]}: {cure}"))
    return problems


def _number(data: Mapping[str, Any], name: str, default: int) -> int:
    try:
        return int(data.get(name, default))
    except (TypeError, ValueError, OverflowError):
        return default


def _find_problems(config: ArchitectureConfig) -> list[ShapeProblem]:
    """Return all problems of a shape, including fields that its family does not have."""
    family = FAMILIES[config.family]
    rules = (_family_problems, _head_problems, _kv_problems, _window_problems, _expert_problems)
    return [problem for rule in rules for problem in rule(config, family)]


def _family_problems(config: ArchitectureConfig, family: Family) -> Iterator[ShapeProblem]:
    for name in OPTIONAL_FIELDS:
        value, reason = getattr(config, name), explain_missing(config.family, name)
        if value is not None and reason is not None:
            yield ShapeProblem(name, f"{name} {value:g} can't be given: {reason}. Leave {name} out")
    if "num_kv_heads" in family.fixed and config.num_kv_heads != config.num_heads:
        yield ShapeProblem(
            "num_kv_heads",
            f"{config.num_kv_heads} key/value heads for {config.num_heads} heads: in {family.title}"
            f" {family.fixed['num_kv_heads']}. Leave num_kv_heads out or set it to {config.num_heads}",
        )
    if family.tied is not None and config.tie_embeddings != family.tied:
        setting = "on" if family.tied else "off"
        yield ShapeProblem("tie_embeddings", f"{family.fixed['tie_embeddings']}: switch tie_embeddings {setting}")
    if "feed_forward" in family.fixed and config.feed_forward != 4 * config.width:
        yield ShapeProblem(
            "feed_forward",
            f"a feed-forward of {config.feed_forward}: {family.fixed['feed_forward']}. "
            f"Leave feed_forward out or set it to {4 * config.width}",
        )


_WHOLE_SHARES = frozenset({"llama", "gemma3"})
"""Families whose transformers class always divides the width evenly among heads."""


def _head_problems(config: ArchitectureConfig, family: Family) -> Iterator[ShapeProblem]:
    if family.latent:
        if config.rope_head_size is not None and config.rope_head_size % 2:
            yield ShapeProblem(
                "rope_head_size",
                f"a rope_head_size of {config.rope_head_size} is odd, and rotary positions rotate pairs: "
                f"{config.rope_head_size + 1} would work",
            )
        return
    width, heads = config.width, config.num_heads
    if width % heads and (config.head_size is None or family.name in _WHOLE_SHARES):
        near = [n for n in range(1, width + 1) if width % n == 0 and ((width // n) % 2 == 0 or not family.rotary)]
        best = min(near, key=lambda n: abs(n - heads)) if near else 1
        yield ShapeProblem(
            "num_heads",
            f"width {width} can't be shared among {heads} heads: {width} / {heads} is not whole; {best} heads would"
            " work",
        )
    elif family.rotary and config.head_dim % 2:
        cure = (
            f"head_size {config.head_size + 1} would work"
            if config.head_size is not None
            else "choose width / heads even"
        )
        yield ShapeProblem(
            "num_heads" if config.head_size is None else "head_size",
            f"a head of {config.head_dim} numbers is odd, and rotary positions rotate pairs: {cure}",
        )


def _kv_problems(config: ArchitectureConfig, family: Family) -> Iterator[ShapeProblem]:
    if "num_kv_heads" in family.fixed:
        return
    if config.num_kv_heads > config.num_heads:
        yield ShapeProblem(
            "num_kv_heads",
            f"{config.num_kv_heads} key/value heads are more than the {config.num_heads} query heads that use them: "
            f"use {_divisors(config.num_heads)}",
        )
    elif config.num_heads % config.num_kv_heads:
        yield ShapeProblem(
            "num_kv_heads",
            f"{config.num_heads} heads can't be shared evenly among {config.num_kv_heads} key/value heads: "
            f"use {_divisors(config.num_heads)}",
        )


def _divisors(number: int) -> str:
    divisors = [str(n) for n in range(1, number + 1) if number % n == 0]
    return f"{', '.join(divisors[:-1])} or {divisors[-1]}" if len(divisors) > 1 else divisors[0]


def _window_problems(config: ArchitectureConfig, family: Family) -> Iterator[ShapeProblem]:
    if "window" in family.fields and config.window is not None and config.window > config.context:
        yield ShapeProblem(
            "window",
            f"a window of {config.window} tokens is longer than the context of {config.context}: choose at most"
            f" {config.context}, which lets every layer see everything",
        )


def _expert_problems(config: ArchitectureConfig, family: Family) -> Iterator[ShapeProblem]:
    if not family.has_experts:
        return
    experts, picked, dense = config.num_experts or 0, config.experts_per_token or 0, config.dense_layers or 0
    if picked > experts:
        yield ShapeProblem(
            "experts_per_token",
            f"a token can't use {picked} experts where there are {experts}: choose experts_per_token of at most"
            f" {experts}",
        )
    if family.latent and experts < 2:
        yield ShapeProblem(
            "num_experts", f"{family.title}'s router compares experts, and {experts} is too few: choose 2 or more"
        )
    if dense >= config.num_layers:
        yield ShapeProblem(
            "dense_layers",
            f"{dense} dense layers leave none of the {config.num_layers} layers with experts: choose at most"
            f" {config.num_layers - 1}, or a family without experts",
        )
