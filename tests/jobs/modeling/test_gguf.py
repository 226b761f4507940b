"""GGUF files are read back by transformers with the same logits, tokens and template; refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.families import FAMILIES
from backend.domain.checkpoints.export_formats import GGUF_FAMILIES
from backend.errors import InvalidInput
from backend.infra.checkpoints.weight_headers import read_gguf
from jobs.modeling.build import build_network
from jobs.modeling.gguf import ARCHITECTURES, choose_quantisation, write_gguf
from jobs.modeling.tokenizers import train_bpe, train_unigram
from tests.support.training_rooms import make_stories

TEXTS = make_stories(60)
IDS = torch.arange(20)[None] * 7 % 320
WRITTEN: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"window": 1024},
    "qwen3": {"head_size": 128},
    "qwen3_moe": {"head_size": 128, "dense_layers": 0, "num_experts": 4, "expert_feed_forward": 768},
    "gpt2": {},
    "gemma3": {"head_size": 256, "global_every": 6, "window": 8},
}


def test_the_domain_lists_the_families_that_export_to_gguf() -> None:
    assert tuple(ARCHITECTURES) == GGUF_FAMILIES


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_bpe(TEXTS, vocab_size=310)  # fewer tokens than the network has rows


def network_of(family: str, **values: Any) -> Any:
    heads = {} if "num_kv_heads" in FAMILIES[family].fixed else {"num_kv_heads": 2}
    config = ArchitectureConfig(
        family=family, num_layers=7, width=64, num_heads=4, context=1024, vocab_size=320, **{**heads, **values}
    )
    network = build_network(config, seed=2, bos_token_id=0, eos_token_id=1, pad_token_id=2)
    with torch.no_grad():
        for parameter in network.parameters():  # norms and biases that change the result
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.02)
    return network.eval()


def read_back(file: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, dtype=torch.float32).eval()


@pytest.mark.parametrize("family", WRITTEN)
@torch.inference_mode()
def test_a_network_survives_the_round_trip_through_gguf(family: str, tokenizer: Any, tmp_path: Path) -> None:
    network, seen = network_of(family, **WRITTEN[family]), []
    logits = network(input_ids=IDS).logits
    write_gguf(
        tmp_path / "a.gguf",
        network=network,
        tokenizer=tokenizer,
        name="a",
        numbers="f32",
        watch=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1][0] == seen[-1][1] == len(seen)
    torch.testing.assert_close(read_back(tmp_path / "a.gguf")(input_ids=IDS).logits, logits, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("numbers", "within", "bytes_each"), [("f16", 3e-3, 2.2), ("bf16", 0.03, 2.2), ("q8_0", 0.05, 1.4)]
)
@torch.inference_mode()
def test_lower_precision_makes_a_smaller_file_of_nearly_the_same_network(
    tokenizer: Any, tmp_path: Path, numbers: Any, within: float, bytes_each: float
) -> None:
    network = network_of("llama")
    logits = network(input_ids=IDS).logits
    write_gguf(tmp_path / "a.gguf", network=network, tokenizer=tokenizer, name="a", numbers=numbers)
    back = read_back(tmp_path / "a.gguf")(input_ids=IDS).logits
    assert 0 < (back - logits).abs().max() < within * logits.abs().max()
    assert (tmp_path / "a.gguf").stat().st_size < bytes_each * network.num_parameters() + 20_000


def test_formats_are_mixed_as_llama_quantize_mixes_them() -> None:
    def kind(label: str, numbers: Any = "q4_k_m", *, columns: int = 512) -> str:
        return choose_quantisation(label, numbers, columns=columns, num_layers=16, output="output.weight").name

    values = [kind(f"blk.{layer}.attn_v.weight") for layer in range(16)]
    assert [layer for layer, name in enumerate(values) if name == "Q6_K"] == [0, 1, 4, 7, 10, 13, 14, 15]
    assert set(values) == {"Q6_K", "Q4_K"}
    assert kind("blk.0.attn_q.weight") == kind("token_embd.weight") == "Q4_K"
    assert kind("output.weight") == kind("output.weight", "q4_0") == "Q6_K"
    assert (kind("output.weight", "q8_0"), kind("output.weight", "bf16")) == ("Q8_0", "BF16")
    assert (kind("position_embd.weight"), kind("blk.0.ffn_gate_inp.weight")) == ("F32", "F32")
    rows_of_96 = [kind(label, columns=96) for label in ("blk.0.attn_q.weight", "blk.0.attn_v.weight")]
    assert (rows_of_96, kind("blk.0.attn_q.weight", columns=20)) == (["Q5_0", "Q8_0"], "F16")


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_the_gguf_file_holds_tokenizer_and_template(family: str, tokenizer: Any, tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", network=network_of(family, **WRITTEN[family]), tokenizer=tokenizer, name="a")
    back = AutoTokenizer.from_pretrained(str(tmp_path), gguf_file="a.gguf")
    for text in [*TEXTS[:5], "  two  spaces\n\n1234 très — ок", "<|user|> is text"]:
        assert back.encode(text, add_special_tokens=False) == tokenizer.encode(text, add_special_tokens=False)
    assert back.chat_template == tokenizer.chat_template
    header = read_gguf(tmp_path / "a.gguf")
    assert (header.vocab_size, header.values["tokenizer.ggml.pre"], header.values["tokenizer.ggml.eos_token_id"]) == (
        320,
        "gpt-2",
        1,
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: network_of("bloom"), "family bloom can't be exported"),
        (lambda: network_of("smollm3"), "family smollm3 can't be exported"),
        (lambda: network_of("mistral", window=64), "no sliding window, and this model has one of 64 tokens"),
        (lambda: network_of("gemma3", window=8, global_every=3), "this model differs"),
        (lambda: _stretched(), "RoPE is scaled \\(linear\\)"),
    ],
    ids=["bloom", "smollm3", "window", "pattern", "rope"],
)
def test_networks_that_gguf_can_not_represent_are_refused(
    make: Any, words: str, tokenizer: Any, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=words) as error:
        write_gguf(tmp_path / "a.gguf", network=make(), tokenizer=tokenizer, name="a")
    assert (error.value.field, "folder" in str(error.value.remedy), list(tmp_path.iterdir())) == ("format", True, [])


def test_a_tokenizer_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="only byte-level BPE"):
        write_gguf(
            tmp_path / "a.gguf", network=network_of("llama"), tokenizer=train_unigram(TEXTS, vocab_size=320), name="a"
        )
    assert list(tmp_path.iterdir()) == []


def _stretched() -> Any:
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0}
    shape = {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_hidden_layers": 1,
        "intermediate_size": 64,
        "vocab_size": 320,
    }
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, rope_parameters=rope))
