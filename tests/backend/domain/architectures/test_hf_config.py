"""Published networks, by the numbers of their config.json alone: the counts are those of their weights on the Hub."""

from __future__ import annotations

from typing import Any

import pytest

from backend.domain.architectures.hf_config import read_shape
from backend.domain.estimates.architecture_report import describe_architecture

GATED = {"rope_scaling": None, "hidden_act": "silu", "attention_bias": False, "attention_dropout": 0.0}


def gated(
    kind: str, width: int, inner: int, layers: int, heads: int, kv_heads: int, context: int, vocab: int, **more: Any
) -> dict[str, Any]:
    """Return the config.json of a decoder with RoPE and a gated feed-forward."""
    return {
        **GATED,
        "model_type": kind,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": context,
        "vocab_size": vocab,
        "tie_word_embeddings": False,
        **more,
    }


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
GEMMA = {
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "rope_local_base_freq": 10_000,
}
QWEN_MOE = {
    "head_dim": 128,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
}
DEEPSEEK = {
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "n_shared_experts": 1,
    "first_k_dense_replace": 3,
    "moe_layer_freq": 1,
    "moe_intermediate_size": 2048,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "n_group": 8,
    "topk_group": 4,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
    "rope_scaling": {"type": "yarn", "factor": 40, "mscale": 1.0},
}
PUBLISHED: dict[str, tuple[dict[str, Any], int, int]] = {  # config.json, parameters, active parameters
    "SmolLM2-135M": (
        gated("llama", 576, 1536, 30, 9, 3, 8192, 49152, tie_word_embeddings=True, rope_theta=100_000),
        134_515_008,
        134_515_008,
    ),
    "Llama-3.1-8B": (
        gated("llama", 4096, 14336, 32, 32, 8, 131_072, 128_256, rope_theta=5e5, rope_scaling=LLAMA3),
        8_030_261_248,
        8_030_261_248,
    ),
    "GPT-2": (
        {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257},
        124_439_808,
        0,
    ),
    "GPT-2 XL": (
        {"model_type": "gpt2", "n_embd": 1600, "n_layer": 48, "n_head": 25, "n_positions": 1024, "vocab_size": 50257},
        1_557_611_200,
        0,
    ),
    "Mistral-7B-v0.1": (
        gated("mistral", 4096, 14336, 32, 32, 8, 32_768, 32_000, sliding_window=4096),
        7_241_732_096,
        0,
    ),
    "Qwen3-0.6B": (
        gated(
            "qwen3",
            1024,
            3072,
            28,
            16,
            8,
            40_960,
            151_936,
            head_dim=128,
            tie_word_embeddings=True,
            rope_theta=1_000_000,
        ),
        596_049_920,
        0,
    ),
    "Qwen3-8B": (gated("qwen3", 4096, 12_288, 36, 32, 8, 40_960, 151_936, head_dim=128), 8_190_735_360, 0),
    "Gemma-3-1B": (
        {
            key: value
            for key, value in gated("gemma3_text", 1152, 6912, 26, 4, 1, 32_768, 262_144, **GEMMA).items()
            if "tie" not in key
        },
        999_885_952,
        0,
    ),
    "BLOOM-560M": (
        {"model_type": "bloom", "n_embed": 1024, "n_layer": 24, "num_attention_heads": 16, "vocab_size": 250_880},
        559_214_592,
        0,
    ),
    "BLOOM": (
        {"model_type": "bloom", "hidden_size": 14_336, "n_layer": 70, "n_head": 112, "vocab_size": 250_880},
        176_247_271_424,
        0,
    ),
    "SmolLM3-3B": (
        gated(
            "smollm3",
            2048,
            11_008,
            36,
            16,
            4,
            65_536,
            128_256,
            tie_word_embeddings=True,
            no_rope_layers=[1, 1, 1, 0] * 9,
        ),
        3_075_098_624,
        0,
    ),
    "Mixtral-8x7B": (
        gated(
            "mixtral",
            4096,
            14_336,
            32,
            32,
            8,
            32_768,
            32_000,
            num_local_experts=8,
            num_experts_per_tok=2,
            sliding_window=None,
        ),
        46_702_792_704,
        12_879_925_248,
    ),
    "Qwen3-30B-A3B": (
        gated("qwen3_moe", 2048, 6144, 48, 32, 4, 40_960, 151_936, **QWEN_MOE),
        30_532_122_624,
        3_353_032_704,
    ),
    "DeepSeek-V3": (
        gated("deepseek_v3", 7168, 18_432, 61, 128, 128, 163_840, 129_280, **DEEPSEEK),
        671_026_404_352,
        37_552_282_624,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts_come_out_of_config_json(name: str) -> None:
    data, parameters, active = PUBLISHED[name]
    shape = read_shape(data)
    assert shape is not None
    report = describe_architecture(shape)
    assert report.parameters == parameters
    assert report.active_parameters == (active or parameters)


def test_published_caches_come_out_of_config_json() -> None:
    shapes = {name: read_shape(data) for name, (data, *_) in PUBLISHED.items()}

    def kilobytes(name: str) -> float:
        shape = shapes[name]
        assert shape is not None
        return describe_architecture(shape, precision="bf16").kv_cache_bytes_per_token / 1024

    assert kilobytes("Llama-3.1-8B") == 128
    assert kilobytes("DeepSeek-V3") * 1024 == 70_272  # DeepSeek-AI 2025, arXiv 2505.09343, table 1: 70.272 KB
    gemma = shapes["Gemma-3-1B"]
    assert gemma is not None
    assert [gemma.is_global(layer) for layer in range(26)].count(True) == 4
    assert describe_architecture(gemma, precision="bf16").kv_cache_bytes == 2 * 256 * 2 * (4 * 32_768 + 22 * 511)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "qwen2"},
        {"attention_bias": True},
        {"mlp_bias": True},
        {"hidden_size": "wide"},
        {"num_hidden_layers": None},
        {"num_attention_heads": 0},
        {"vocab_size": -3},
        {"rope_scaling": "much"},
        {"num_key_value_heads": 7},
    ],
    ids=str,
)
def test_configs_that_would_be_miscounted_are_not_read(change: dict[str, Any]) -> None:
    assert read_shape({**PUBLISHED["SmolLM2-135M"][0], **change}) is None


def test_layers_in_another_order_are_not_read_as_ours() -> None:
    gemma, qwen = PUBLISHED["Gemma-3-1B"][0], PUBLISHED["Qwen3-30B-A3B"][0]
    assert read_shape({**gemma, "layer_types": ["full_attention"] * 13 + ["sliding_attention"] * 13}) is None
    assert read_shape({**qwen, "decoder_sparse_step": 2}) is None
    assert read_shape({**qwen, "mlp_only_layers": [5]}) is None
    first = read_shape({**qwen, "mlp_only_layers": [0, 1]})
    assert first is not None
    assert first.dense_layers == 2
