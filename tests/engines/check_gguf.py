"""GGUF files in 4 to 8 bits: written as llama.cpp's own quantiser writes them, and served as they are.

Run by `make engines`, which installs llama.cpp twice: xllamacpp, whose code the product calls, and llama-cpp-py-sync,
another build, whose `llama_model_quantize` makes the files that are compared and added.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import httpx2
import llama_cpp_py_sync._cffi_bindings as llama_cpp
import pytest
import torch

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.families import FAMILIES
from backend.domain.serving.protocol import GenerateRequest, SamplingParams, TokenEvent
from jobs.modeling.build import build_network
from jobs.modeling.checkpoints import save_checkpoint
from jobs.modeling.entries import export as run_export
from jobs.modeling.gguf import convert_gguf, write_gguf
from jobs.modeling.tokenizers import train_bpe
from jobs.serving.engines import LLAMA_CPP, ServerProcess, ServerStart
from tests.support.jobs import make_spec
from tests.support.serving_replica import TOKEN, RunningReplica, stream_events
from tests.support.training_rooms import Recorder, make_stories

TEXTS = make_stories(60)
QUANTISED = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0")
NETWORKS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama, no rows of 256": {"width": 64},
    "qwen3": {"head_size": 128},
    "qwen3_moe": {"head_size": 128, "dense_layers": 0, "num_experts": 4, "expert_feed_forward": 256},
    "gpt2": {},
    "gemma3": {"head_size": 256, "global_every": 6, "window": 8},
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_bpe(TEXTS, vocab_size=310)


def make_network(name: str) -> Any:
    family = name.partition(",")[0]
    heads = {} if "num_kv_heads" in FAMILIES[family].fixed else {"num_kv_heads": 2}
    shape = {"num_layers": 9, "width": 256, "num_heads": 4, "context": 1024, "vocab_size": 320, **heads}
    config = ArchitectureConfig(**{"family": family, **shape, **NETWORKS[name]})
    network = build_network(config, seed=2, bos_token_id=0, eos_token_id=1, pad_token_id=2)
    with torch.no_grad():
        for parameter in network.parameters():  # far enough from uniform for greedy tokens without ties
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    return network.eval()


def quantise_by_llama_cpp(source: Path, target: Path, numbers: str) -> Path:
    library, ffi = llama_cpp.get_lib(), llama_cpp.get_ffi()
    params = ffi.new("llama_model_quantize_params *", library.llama_model_quantize_default_params())
    params.ftype = int(gguf.LlamaFileType[f"MOSTLY_{numbers.upper()}"])
    assert library.llama_model_quantize(str(source).encode(), str(target).encode(), params) == 0
    return target


@pytest.mark.parametrize("name", NETWORKS)
def test_quantised_files_have_the_bytes_of_llama_cpps_quantiser(name: str, tokenizer: Any, tmp_path: Path) -> None:
    network, files = make_network(name), {}
    for numbers in ("f32", *QUANTISED):
        files[numbers] = tmp_path / f"{numbers}.gguf"
        write_gguf(files[numbers], network=network, tokenizer=tokenizer, name="x", numbers=numbers)  # type: ignore[arg-type]
    for numbers in QUANTISED:
        file = quantise_by_llama_cpp(files["f32"], tmp_path / f"theirs-{numbers}.gguf", numbers)
        mine, theirs = ({one.name: one for one in gguf.GGUFReader(path).tensors} for path in (files[numbers], file))
        kinds = {name: one.tensor_type.name for name, one in mine.items()}
        assert kinds == {name: one.tensor_type.name for name, one in theirs.items()}
        for label, tensor in mine.items():
            assert tensor.data.tobytes() == theirs[label].data.tobytes(), (numbers, label)


@pytest.mark.parametrize("numbers", ["q8_0", "q4_k_m", "q4_0"])
def test_a_base_in_few_bits_gives_the_tokens_of_llama_cpp_alone_on_its_file(
    numbers: str, tokenizer: Any, tmp_path: Path
) -> None:
    write_gguf(tmp_path / "f32.gguf", network=make_network("llama"), tokenizer=tokenizer, name="x", numbers="f32")
    file = quantise_by_llama_cpp(tmp_path / "f32.gguf", tmp_path / "few.gguf", numbers)
    convert_gguf(file, tmp_path / "checkpoint")
    prompts = [tokenizer.encode(text)[n : n + 40] for n, text in enumerate(TEXTS[:4])]
    assert len({prompt[0] for prompt in prompts}) == 4  # none is cached: that would round differently
    replica = RunningReplica(tmp_path, engine="llama.cpp", max_running=2)
    params = SamplingParams(max_tokens=60, temperature=0, ignore_eos=True)
    requests = [GenerateRequest(token_ids=tuple(prompt), params=params) for prompt in prompts]
    events = [list(stream_events(replica.url, token=TOKEN, request=request)) for request in requests]
    replica.stop()
    served = [[token for one in answer if isinstance(one, TokenEvent) for token in one.token_ids] for answer in events]
    alone = ServerProcess.begin(LLAMA_CPP, ServerStart(model=file, context=1024, places=1))
    try:
        alone.wait_until_healthy(should_stop=lambda: None)
        for prompt, tokens in zip(prompts, served, strict=True):
            body = {"prompt": prompt, "n_predict": 60, "temperature": 0, "ignore_eos": True, "return_tokens": True}
            key = {"Authorization": f"Bearer {alone.key}"}
            answer = httpx2.post(f"{alone.url}/completion", json=body, headers=key, timeout=60).json()
            assert tokens == answer["tokens"]
            assert len(tokens) == 60
    finally:
        alone.close()


def test_an_export_in_few_bits_says_what_they_cost(tokenizer: Any, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoint", model=make_network("llama"), tokenizer=tokenizer, meta={})
    costs = []
    for numbers in ("q8_0", "q4_k_m"):
        payload = {
            "checkpoint": "checkpoint",
            "checkpoint_id": "c",
            "format": "gguf",
            "numbers": numbers,
            "out": numbers,
        }
        spec = make_spec("export", {**payload, "card": "# X\n"}, root=tmp_path, folder=tmp_path / "job")
        result = run_export.run(spec, Recorder())
        assert result.check is not None
        assert result.check.describe() in (tmp_path / numbers / "README.md").read_text()
        assert result.quantisation == numbers.upper()
        costs.append((result.check.perplexity_ratio, result.bits_per_weight))
    (ratio_8, bits_8), (ratio_4, bits_4) = costs
    assert 1 <= ratio_8 < ratio_4
    assert bits_8
    assert bits_4
    assert bits_4 < bits_8 < 9
