"""What every family costs, checked against networks of it that are really built, in three sizes each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.utils.flop_counter import FlopCounterMode

from backend.domain.architectures.config import ArchitectureConfig, problems_by_field
from backend.domain.architectures.families import FAMILIES, FAMILY_NAMES, OPTIONAL_FIELDS, explain_missing
from backend.domain.estimates.architecture_report import ArchitectureReport, describe_architecture
from backend.domain.training.config import RunConfig
from backend.domain.training.config_sections import LoraConfig
from jobs.modeling.build import build_network, make_config
from jobs.training.network.adapters import lora_config
from tests.support.networks.base_folders import config_from_checkpoint

# Names in vLLM's registry (vllm-project/vllm, vllm/model_executor/models/registry.py at
# 0002bff0b6cb36a3c8a17364de3303664463c412): decoders
# of its own (_TEXT_GENERATION_MODELS, in part), and those that its transformers backend serves
# (_TRANSFORMERS_SUPPORTED_MODELS).
VLLM_CLASSES = {
    "BloomForCausalLM",
    "DeepseekV2ForCausalLM",
    "DeepseekV3ForCausalLM",
    "FalconForCausalLM",
    "GemmaForCausalLM",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "GPT2LMHeadModel",
    "GPTNeoXForCausalLM",
    "GptOssForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "MixtralForCausalLM",
    "MPTForCausalLM",
    "MptForCausalLM",
    "OlmoForCausalLM",
    "Olmo2ForCausalLM",
    "OlmoeForCausalLM",
    "OPTForCausalLM",
    "PhiForCausalLM",
    "Phi3ForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen2MoeForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
    "SmolLM3ForCausalLM",
}

SMALL = {"num_layers": 2, "width": 32, "num_heads": 4, "context": 32, "vocab_size": 120, "feed_forward": 64}
GROUPED = {
    "num_layers": 2,
    "width": 48,
    "num_heads": 6,
    "num_kv_heads": 2,
    "context": 48,
    "vocab_size": 301,
    "feed_forward": 40,
}
SINGLE = {
    "num_layers": 3,
    "width": 40,
    "num_heads": 5,
    "num_kv_heads": 1,
    "context": 24,
    "vocab_size": 77,
    "feed_forward": 56,
}
ALIKE = {
    "num_layers": 2,
    "width": 42,
    "num_heads": 3,
    "context": 40,
    "vocab_size": 99,
}  # heads not a power of two, of 14 numbers
SIZES: dict[str, tuple[dict[str, Any], ...]] = {
    "llama": (SMALL, {**GROUPED, "tie_embeddings": False}, {**SINGLE, "head_size": 16}),
    "gpt2": ({**SMALL, "feed_forward": 128}, ALIKE, {**ALIKE, "num_heads": 14, "feed_forward": 50, "num_layers": 1}),
    "mistral": (
        {**SMALL, "window": 8},
        {**GROUPED, "window": 48, "tie_embeddings": False},
        {**SINGLE, "window": 2, "head_size": 6},
    ),
    "qwen3": (SMALL, {**GROUPED, "head_size": 12, "tie_embeddings": False}, SINGLE),
    "gemma3": (
        {**SMALL, "window": 8, "global_every": 2},
        {**GROUPED, "head_size": 20, "window": 48},
        {**SINGLE, "global_every": 9},
    ),
    "bloom": ({**SMALL, "feed_forward": 128}, ALIKE, {**ALIKE, "num_heads": 14, "num_layers": 1, "vocab_size": 400}),
    "smollm3": (SMALL, {**GROUPED, "nope_every": 2, "tie_embeddings": False}, {**SINGLE, "nope_every": 1}),
    "mixtral": (
        SMALL,
        {**GROUPED, "num_experts": 6, "experts_per_token": 3},
        {**SINGLE, "num_experts": 1, "experts_per_token": 1},
    ),
    "qwen3_moe": (
        {**SMALL, "num_experts": 5, "experts_per_token": 2},
        {**GROUPED, "dense_layers": 1, "expert_feed_forward": 12, "tie_embeddings": False},
        {**SINGLE, "dense_layers": 2, "experts_per_token": 8, "head_size": 10},
    ),
    "deepseek_v3": (
        {**SMALL, "shared_experts": 2},
        {
            **ALIKE,
            "feed_forward": 30,
            "query_rank": 0,
            "kv_rank": 9,
            "value_head_size": 5,
            "dense_layers": 0,
            "experts_per_token": 8,
        },
        {**ALIKE, "num_heads": 4, "rope_head_size": 2, "nope_head_size": 3, "expert_feed_forward": 7, "num_experts": 2},
    ),
}
CASES = [
    pytest.param(family, size, id=f"{family}-{index}")
    for family, sizes in SIZES.items()
    for index, size in enumerate(sizes)
]
every_case = pytest.mark.parametrize(("family", "size"), CASES)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """At these sizes more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def shape(family: str, size: dict[str, Any]) -> ArchitectureConfig:
    return ArchitectureConfig(family=family, **size)


def built(config: ArchitectureConfig) -> Any:
    """Build a network whose products torch's counter sees: on the CPU it counts fused attention as nothing."""
    network = build_network(config, seed=1)
    network.set_attn_implementation("eager")
    if config.num_experts is not None:
        network.set_experts_implementation("eager")
    return network


def component(name: str) -> str:
    """Say which component a parameter belongs to, by its name."""
    for part, marks in {
        "norms": ("norm", ".ln_"),
        "biases": (".bias",),
        "positions": ("wpe",),
        "embedding": ("embed", "wte"),
        "output_head": ("lm_head",),
        "attention": ("attn", "attention"),
        "shared_experts": ("shared_experts",),
        "experts": ("experts",),
        "router": ("mlp.gate.weight",),
    }.items():
        if any(mark in name for mark in marks):
            return part
    return "feed_forward"


def count_operations(network: Any, tokens: int, *, backward: bool = False) -> int:
    ids = torch.arange(tokens)[None] % 70
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward):
        logits = network(input_ids=ids, use_cache=False).logits
        if backward:
            logits.sum().backward()
    return int(counter.get_total_flops())


@every_case
def test_parameters_by_component_equal_those_of_the_built_network(
    family: str, size: dict[str, Any], tmp_path: Path
) -> None:
    config = shape(family, size)
    network, report = built(config), describe_architecture(config)
    assert report.parameters == sum(parameter.numel() for parameter in network.parameters())
    counted = dict.fromkeys(report.parameters_by_component, 0)
    for name, parameter in network.named_parameters():
        counted[component(name)] += parameter.numel()
    assert report.parameters_by_component == {**counted, "total": report.parameters}
    idle = sum(
        parameter.numel() * (1 - (config.experts_per_token or 0) / (config.num_experts or 1))
        for name, parameter in network.named_parameters()
        if component(name) == "experts"
    )
    assert report.active_parameters == round(report.parameters - idle)
    network.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [FAMILIES[family].network_class]
    assert FAMILIES[family].network_class in VLLM_CLASSES
    assert config_from_checkpoint(tmp_path) == config


@every_case
def test_operations_equal_what_torch_counts_at_two_contexts(family: str, size: dict[str, Any]) -> None:
    config = shape(family, size)
    network = built(config)
    for tokens in (config.context // 2, config.context):
        report = describe_architecture(config, context=tokens)
        assert report.flops_per_token.forward * tokens == count_operations(network, tokens)
    assert report.flops_per_token.training * tokens == count_operations(network, tokens, backward=True)


@every_case
def test_cache_bytes_equal_the_cache_that_a_forward_pass_leaves(family: str, size: dict[str, Any]) -> None:
    config = shape(family, size)
    network = built(config)
    for tokens in (1, config.context // 2, config.context):
        with torch.no_grad():
            held = network(input_ids=torch.zeros(1, tokens, dtype=torch.long), use_cache=True).cache.layers
        report = describe_architecture(config, context=tokens)
        assert sum(layer.keys.nbytes + layer.values.nbytes for layer in held) == report.kv_cache_bytes
        assert tokens > 1 or report.kv_cache_bytes_per_token == report.kv_cache_bytes
    half = describe_architecture(config, precision="bf16")
    assert 2 * half.kv_cache_bytes_per_token == report.kv_cache_bytes_per_token


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_adapters_and_their_operations_equal_what_peft_adds(family: str) -> None:
    config = shape(family, SIZES[family][1])
    run = RunConfig(objective="sft", dataset="d", base="b", method="lora", lora=LoraConfig(rank=3))
    network = peft.get_peft_model(built(config), lora_config(run))
    report = describe_architecture(config, lora=run.lora)
    assert report.trainable_parameters == sum(p.numel() for p in network.parameters() if p.requires_grad)
    for operations, backward in ((report.flops_per_token.forward, False), (report.flops_per_token.training, True)):
        assert operations * config.context == pytest.approx(
            count_operations(network, config.context, backward=backward), rel=0.003
        )


def test_the_latent_cache_is_reported_with_its_saving() -> None:
    report = describe_architecture(ArchitectureConfig(family="deepseek_v3"))
    # layers x heads x (key + value numbers) x bytes
    assert report.kv_cache_expanded_bytes_per_token == 4 * 4 * (48 + 32) * 4
    assert report.kv_cache_bytes_per_token == 4 * (32 + 16) * 4
    assert describe_architecture(ArchitectureConfig()).kv_cache_expanded_bytes_per_token is None


@settings(max_examples=250, deadline=None)
@given(
    st.sampled_from(FAMILY_NAMES),
    st.dictionaries(
        st.sampled_from([*OPTIONAL_FIELDS, "num_kv_heads", "feed_forward", "tie_embeddings"]),
        st.sampled_from((0, 1, 2, 3, 8)),
        max_size=3,
    ),
    st.sampled_from((1, 2, 4)),
    st.sampled_from((8, 12, 24)),
    st.sampled_from((1, 2, 3, 4)),
)
def test_accepted_configs_can_be_built_and_others_name_a_field(
    family: str, given_fields: dict[str, Any], layers: int, width: int, heads: int
) -> None:
    values = {
        "family": family,
        "num_layers": layers,
        "width": width,
        "num_heads": heads,
        "context": 16,
        "vocab_size": 20,
    }
    try:
        config = ArchitectureConfig.model_validate({**values, **given_fields})
    except ValidationError as error:
        words = problems_by_field(error)
        assert words
        assert set(words) <= set(ArchitectureConfig.model_fields)
        return
    assert ArchitectureConfig.model_validate(config.model_dump()) == config
    assert not any(getattr(config, name) is not None and explain_missing(family, name) for name in OPTIONAL_FIELDS)
    with torch.device("meta"):
        network = getattr(transformers, FAMILIES[family].network_class)(make_config(config))
    report: ArchitectureReport = describe_architecture(config)
    assert report.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert report.active_parameters <= report.parameters
