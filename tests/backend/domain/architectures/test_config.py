"""A shape's cost equals that of the built network; an impossible shape is refused with value, reason and cure."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.utils.flop_counter import FlopCounterMode

from backend.domain.architectures.config import ArchitectureConfig, find_other_problems, problems_by_field
from backend.domain.architectures.families import FAMILIES, FAMILY_NAMES, OPTIONAL_FIELDS, explain_missing
from backend.domain.estimates.architecture_report import describe_architecture
from backend.domain.training.config import RunConfig, parse_run_config
from backend.domain.training.config_sections import LoraConfig
from backend.domain.training.schedule import learning_rate_at
from backend.domain.validation import validation_message
from jobs.modeling.build import build_network
from jobs.training.network.adapters import lora_config

SHAPES = {
    "starter": {},
    "one-layer": {
        "num_layers": 1,
        "width": 32,
        "num_heads": 2,
        "num_kv_heads": 2,
        "vocab_size": 100,
        "feed_forward": 40,
    },
    "grouped-query": {
        "num_layers": 3,
        "width": 64,
        "num_heads": 8,
        "num_kv_heads": 4,
        "vocab_size": 512,
        "feed_forward": 172,
    },
    "multi-query": {
        "num_layers": 2,
        "width": 48,
        "num_heads": 6,
        "num_kv_heads": 1,
        "vocab_size": 262,
        "feed_forward": 96,
    },
    "untied": {
        "num_layers": 2,
        "width": 64,
        "num_heads": 4,
        "num_kv_heads": 4,
        "vocab_size": 300,
        "tie_embeddings": False,
    },
    "untied-multi-query": {
        "num_layers": 5,
        "width": 40,
        "num_heads": 5,
        "num_kv_heads": 1,
        "vocab_size": 999,
        "tie_embeddings": False,
    },
    "one-head": {"num_layers": 2, "width": 16, "num_heads": 1, "num_kv_heads": 1, "vocab_size": 65, "feed_forward": 8},
    "narrow-feed-forward": {
        "num_layers": 7,
        "width": 24,
        "num_heads": 3,
        "num_kv_heads": 3,
        "vocab_size": 1000,
        "feed_forward": 9,
    },
    "wide-vocabulary": {
        "num_layers": 1,
        "width": 8,
        "num_heads": 2,
        "num_kv_heads": 1,
        "vocab_size": 20_000,
        "feed_forward": 32,
    },
}
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


@every_shape
def test_parameters_equal_those_of_the_built_network(shape: dict[str, int]) -> None:
    config = ArchitectureConfig(**shape)
    network = build_network(config, seed=1)
    report = describe_architecture(config)
    assert report.parameters == sum(parameter.numel() for parameter in network.parameters())
    by_component = dict.fromkeys(("embedding", "attention", "feed_forward", "norms", "output_head"), 0)
    for name, parameter in network.named_parameters():
        part = next(
            part
            for key, part in {
                "embed": "embedding",
                "lm_head": "output_head",
                "self_attn": "attention",
                "mlp": "feed_forward",
                "norm": "norms",
            }.items()
            if key in name
        )
        by_component[part] += parameter.numel()
    assert report.parameters_by_component == {**by_component, "total": report.parameters}


@every_shape
def test_forward_flops_equal_what_torch_counts(shape: dict[str, int]) -> None:
    config = ArchitectureConfig(**{**shape, "context": 32})
    network = build_network(config, seed=1)
    network.set_attn_implementation("eager")  # the fused kernel counts itself on some devices only
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(input_ids=torch.zeros(1, 32, dtype=torch.long), use_cache=False)
    assert describe_architecture(config).flops_per_token.forward * 32 == counter.get_total_flops()
    assert (
        describe_architecture(config).flops_per_token.training
        == 3 * describe_architecture(config).flops_per_token.forward
    )


@pytest.mark.parametrize("rank", [1, 8])
def test_adapters_count_what_peft_adds(rank: int) -> None:
    import peft

    config = ArchitectureConfig(num_layers=2, width=48, num_heads=6, num_kv_heads=2, vocab_size=262, feed_forward=96)
    run = RunConfig(objective="sft", dataset="d", base="b", method="lora", lora=LoraConfig(rank=rank))
    network = peft.get_peft_model(build_network(config, seed=1), lora_config(run))
    report = describe_architecture(config, lora=run.lora)
    assert report.trainable_parameters == sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert report.memory_bytes.weights == 4 * sum(p.numel() for p in network.parameters())
    assert report.memory_bytes.optimizer == 8 * report.trainable_parameters


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_learning_rate_rises_to_its_peak_and_falls_towards_its_floor(schedule: str) -> None:
    config = RunConfig(
        dataset="d",
        architecture="a",
        tokenizer="t",
        max_steps=100,
        warmup_steps=10,
        learning_rate=0.01,
        min_learning_rate=0.001,
        schedule=schedule,
    )
    rates = [learning_rate_at(step, config) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([0.001 * step for step in range(1, 11)])
    assert max(rates) == rates[10] == 0.01
    assert all(before >= after for before, after in itertools.pairwise(rates[10:]))
    assert rates[-1] == (0.01 if schedule == "constant" else pytest.approx(0.001, rel=0.2))
    middle = learning_rate_at(56, config)
    assert middle == (0.01 if schedule == "constant" else pytest.approx(0.0055, rel=0.001))


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"width": 130}, "num_heads", "width 130 can't be shared among 4 heads: 130 / 4 is not whole; 5 heads would work"),
    ({"num_heads": 128}, "num_heads", "a head of 1 numbers is odd.*choose width / heads even"),
    ({"head_size": 15}, "head_size", "a head of 15 numbers is odd.*head_size 16 would work"),
    ({"num_kv_heads": 3}, "num_kv_heads", "4 heads can't be shared evenly among 3 key/value heads: use 1, 2 or 4"),
    (
        {"num_kv_heads": 8},
        "num_kv_heads",
        "8 key/value heads are more than the 4 query heads that use them: use 1, 2 or 4",
    ),
    (
        {"window": 64},
        "window",
        "window 64 can't be given: Llama lets every layer see the whole context; Mistral or Gemma 3 can. Leave window",
    ),
    ({"family": "gpt2", "rope_theta": 1e4}, "rope_theta", "GPT-2 has learned positions. Leave rope_theta out"),
    ({"family": "gpt2", "num_kv_heads": 2}, "num_kv_heads", "in GPT-2 every query head has its own.*or set it to 4"),
    (
        {"family": "gpt2", "tie_embeddings": False},
        "tie_embeddings",
        "servers load no second matrix: switch tie_embeddings on",
    ),
    ({"family": "deepseek_v3", "tie_embeddings": True}, "tie_embeddings", "an untied head.*switch tie_embeddings off"),
    (
        {"family": "bloom", "feed_forward": 300},
        "feed_forward",
        "a feed-forward of 300: .*always 4 x width.*set it to 512",
    ),
    ({"family": "bloom", "num_heads": 5}, "num_heads", "128 / 5 is not whole; 4 heads would work"),
    (
        {"family": "mistral", "window": 512},
        "window",
        "a window of 512 tokens is longer than the context of 256: choose at most 256",
    ),
    (
        {"family": "mixtral", "experts_per_token": 9},
        "experts_per_token",
        "can't use 9 experts where there are 4: .* at most 4",
    ),
    (
        {"family": "mixtral", "expert_feed_forward": 64},
        "expert_feed_forward",
        "Mixtral gives feed_forward, which is each expert's size",
    ),
    (
        {"family": "qwen3_moe", "dense_layers": 4},
        "dense_layers",
        "4 dense layers leave none of the 4 layers.*choose at most 3",
    ),
    (
        {"family": "deepseek_v3", "num_experts": 1, "experts_per_token": 1},
        "num_experts",
        "1 is too few: choose 2 or more",
    ),
    ({"family": "deepseek_v3", "rope_head_size": 7}, "rope_head_size", "a rope_head_size of 7 is odd.*8 would work"),
    ({"family": "deepseek_v3", "head_size": 32}, "head_size", "DeepSeek-V3 has heads of nope_head_size"),
    ({"family": "gemma3", "width": 130, "head_size": 32}, "num_heads", "130 / 4 is not whole"),
    ({"width": 130, "head_size": 32}, "num_heads", "130 / 4 is not whole"),
    ({"family": "mamba"}, "family", "Must be 'llama', 'gpt2'"),
    ({"num_layers": 0}, "num_layers", "Must be at least 1"),
    ({"layers": 4}, "num_layers", "has no field layers: perhaps num_layers is meant"),
    ({"hidden_size": 64}, "width", "has no field hidden_size: it is called width here"),
    ({"colour": 1}, "family", "has no field colour: there are family, num_layers, width"),
]


@pytest.mark.parametrize(
    ("values", "field", "words"), REFUSED, ids=lambda value: str(value) if isinstance(value, dict) else None
)
def test_an_impossible_shape_is_reported_at_the_field_to_change(values: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ArchitectureConfig.model_validate(values)
    problems = problems_by_field(caught.value)
    assert list(problems) == [field]
    assert re.search(words, problems[field], re.IGNORECASE)


def test_all_problems_are_reported_each_at_its_field() -> None:
    with pytest.raises(ValidationError) as caught:
        ArchitectureConfig.model_validate(
            {"family": "gpt2", "num_kv_heads": 2, "window": 9, "tie_embeddings": False, "width": 129}
        )
    assert set(problems_by_field(caught.value)) == {"num_kv_heads", "window", "tie_embeddings", "num_heads"}
    message = validation_message(caught.value)
    assert message.count(";") >= 3
    assert "num_heads: width 129 can't be shared among 4 heads" in message  # a YAML file's reader must know which line


def test_unreadable_fields_do_not_hide_other_problems() -> None:
    unread = find_other_problems({"num_heads": 6, "num_kv_heads": 4}, unreadable=["width"])
    assert list(unread) == ["num_kv_heads"], "6 heads can't share 4; whether they share the width is open"
    outside = find_other_problems({"num_layers": 0, "width": 130})
    assert set(outside) == {"num_layers", "num_heads"}
    assert "130 / 4 is not whole" in outside["num_heads"]
    assert find_other_problems({"family": "deepseek_v3", "dense_layers": 3}, unreadable=["num_layers"]) == {}
    assert find_other_problems({}, unreadable=["num_kv_heads"]) == {}


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_every_family_lists_its_traits_and_its_missing_fields_with_reasons(family: str) -> None:
    entry = FAMILIES[family]
    config = ArchitectureConfig(family=family)
    assert all(
        (getattr(config, name) is None) == (explain_missing(family, name) is not None)
        for name in OPTIONAL_FIELDS
        if name != "head_size"
    )
    assert all(len(text) > 3 for text in (entry.title, entry.summary, entry.positions, entry.norm, entry.feed_forward))
    assert ("tie_embeddings" in entry.fixed) == (entry.tied is not None)
    assert ArchitectureConfig.model_validate(config.model_dump(mode="json")) == config
    run = RunConfig(dataset="d", architecture=config, tokenizer="t")
    assert parse_run_config(run.to_yaml()) == run


def test_rows_stored_before_there_were_families_still_load() -> None:
    stored = {
        "family": "llama",
        "num_layers": 4,
        "width": 128,
        "num_heads": 4,
        "num_kv_heads": 2,
        "context": 256,
        "vocab_size": 2048,
        "feed_forward": 384,
        "tie_embeddings": True,
        "rope_theta": 10000.0,
        "norm_eps": 1e-05,
    }
    assert ArchitectureConfig.model_validate(stored) == ArchitectureConfig(num_kv_heads=2)


def test_the_same_network_is_the_same_config() -> None:
    assert ArchitectureConfig(head_size=32) == ArchitectureConfig() == ArchitectureConfig(num_kv_heads=4, window=None)
    assert ArchitectureConfig(num_heads=8).num_kv_heads == 8


def test_every_field_has_help() -> None:
    assert all(field.title and field.description for field in ArchitectureConfig.model_fields.values())
