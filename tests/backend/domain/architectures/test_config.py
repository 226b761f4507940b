"""What a shape costs, checked against networks that are really built."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.estimates.architecture_report import describe_architecture
from backend.domain.training.config import RunConfig
from backend.domain.training.config_sections import LoraConfig
from backend.domain.training.schedule import learning_rate_at
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
