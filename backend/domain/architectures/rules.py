"""Find the problems of a shape: the field at fault, its value and the remedy."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from backend.domain.architectures.families import FAMILIES, OPTIONAL_FIELDS, Family, explain_missing
from backend.domain.architectures.fields import ArchitectureFields
from backend.domain.validation import describe_fault


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


OTHER_NAMES: dict[str, str] = {
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


def find_unknown(names: Mapping[str, Any], fields: Collection[str]) -> list[ShapeProblem]:
    """Return a problem for each unknown field name, with the nearest known one."""
    problems = []
    for name in (str(key) for key in names if key not in fields):
        near = OTHER_NAMES.get(name) or next(iter(get_close_matches(name, fields, n=1)), None)
        cure = (
            f"it is called {near} here"
            if name in OTHER_NAMES
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


def find_problems(config: ArchitectureFields) -> list[ShapeProblem]:
    """Return all problems of a shape, including fields that its family does not have."""
    family = FAMILIES[config.family]
    rules = (_family_problems, _head_problems, _kv_problems, _window_problems, _expert_problems)
    return [problem for rule in rules for problem in rule(config, family)]


def _family_problems(config: ArchitectureFields, family: Family) -> Iterator[ShapeProblem]:
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


WHOLE_SHARES = frozenset({"llama", "gemma3"})
"""Families whose transformers class always divides the width evenly among heads."""


def _head_problems(config: ArchitectureFields, family: Family) -> Iterator[ShapeProblem]:
    if family.latent:
        if config.rope_head_size is not None and config.rope_head_size % 2:
            yield ShapeProblem(
                "rope_head_size",
                f"a rope_head_size of {config.rope_head_size} is odd, and rotary positions rotate pairs: "
                f"{config.rope_head_size + 1} would work",
            )
        return
    width, heads = config.width, config.num_heads
    if width % heads and (config.head_size is None or family.name in WHOLE_SHARES):
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


def _kv_problems(config: ArchitectureFields, family: Family) -> Iterator[ShapeProblem]:
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


def _window_problems(config: ArchitectureFields, family: Family) -> Iterator[ShapeProblem]:
    if "window" in family.fields and config.window is not None and config.window > config.context:
        yield ShapeProblem(
            "window",
            f"a window of {config.window} tokens is longer than the context of {config.context}: choose at most"
            f" {config.context}, which lets every layer see everything",
        )


def _expert_problems(config: ArchitectureFields, family: Family) -> Iterator[ShapeProblem]:
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
