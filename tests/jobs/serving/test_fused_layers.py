"""Fused layers equal the library's, in every cache and family; steps of the compiled library equal those of
operators.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from transformers import (
    DynamicCache,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from backend.domain.serving.protocol import ScoredToken, TokenEvent
from jobs.serving.batching import BatchingEngine
from jobs.serving.fused_layers import FusedLayer, fuse_layers
from jobs.serving.native.library import (
    FLAGS,
    RETRY,
    TRIALS,
    Batch,
    FloatWeights,
    Int8Weights,
    Layer,
    Library,
    ShortWeights,
    ThreadChoice,
    compile_library,
)
from jobs.serving.precision import ShortEmbedding, exact_format, replace_layers, store_in_16_bits
from tests.support.networks.serving_networks import make_llama, make_tokenizer
from tests.support.serving.requests import Caught, reference

SHAPE: dict[str, Any] = {
    "vocab_size": 260,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
    "bos_token_id": None,
    "eos_token_id": 256,
    "pad_token_id": None,
}


def make_family(name: str) -> Any:
    torch.manual_seed(0)
    if name == "llama":
        return make_llama()
    if name == "mistral":
        return MistralForCausalLM(MistralConfig(**SHAPE, head_dim=16, sliding_window=24)).eval()
    if name == "qwen2":
        network = Qwen2ForCausalLM(Qwen2Config(**SHAPE)).eval()
        for layer in network.model.layers:
            torch.nn.init.normal_(layer.self_attn.q_proj.bias)
        return network
    network = Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=32)).eval()
    for layer in network.model.layers:
        torch.nn.init.normal_(layer.self_attn.k_norm.weight, mean=1, std=0.3)
    return network


PROMPTS = ["Tell me a longer story: " * 4, "Once upon", "Tell me a story: " * 9]
FAMILIES = ["llama", "mistral", "qwen2", "qwen3"]


class Request(NamedTuple):
    ids: list[int]
    tokens: int


def answer(requests: list[Request], network: Any) -> list[list[ScoredToken]]:
    """Return the greedy tokens of requests that share a new cache."""
    engine = BatchingEngine(network, make_tokenizer())
    try:
        answers = [
            Caught(engine, request.ids, max_tokens=request.tokens, logprobs=1, ignore_eos=True) for request in requests
        ]
        events = [answer.wait().events for answer in answers]
    finally:
        engine.close()
    return [
        [token for event in some if isinstance(event, TokenEvent) for token in event.logprobs or ()] for some in events
    ]


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_logits_are_those_of_the_library_with_and_without_a_cache(family: str) -> None:
    network = make_family(family)
    ids = torch.randint(0, 256, (3, 40))
    expected = network(input_ids=ids, use_cache=False).logits
    assert fuse_layers(network) == 2
    assert torch.allclose(network(input_ids=ids, use_cache=False).logits, expected, atol=2e-5)
    cache = DynamicCache(config=network.config)
    parts = [network(input_ids=part, cache=cache, use_cache=True).logits for part in ids.split([30, 1, 9], dim=1)]
    assert torch.allclose(torch.cat(parts, dim=1), expected, atol=2e-5)


@pytest.mark.parametrize(
    ("family", "is_compiled"),
    [("llama", True), ("llama", False), ("mistral", True), ("qwen3", True)],
    ids=["llama-compiled", "llama-operators", "mistral", "qwen3"],
)
def test_requests_that_share_steps_get_the_tokens_of_generate(family: str, is_compiled: bool, library: Library) -> None:
    network = make_family(family)
    prompts = ["Tell me a story: ", "Once upon", "A", "Tell me a longer story: " * 4]  # the last spans two pages
    expected = [reference(network, prompt, tokens=24) for prompt in prompts]
    fuse_layers(network, library=library if is_compiled else None)
    engine = BatchingEngine(network, make_tokenizer())
    try:
        requests = [Caught(engine, prompt) for prompt in prompts]
        assert [request.wait().ids for request in requests] == expected
    finally:
        engine.close()


def test_the_library_computes_prompts_and_new_tokens_in_one_batch(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = make_llama()
    expected = [reference(network, prompt, tokens=24) for prompt in PROMPTS]
    num_rows, num_layers = [], []

    def compute(layers: Any, batches: Any, rows: torch.Tensor) -> torch.Tensor:
        num_rows.append(len(layers) * len(rows))
        num_layers.append(len(layers))
        return Library.compute(library, layers, batches, rows)

    fuse_layers(network, library=library)
    monkeypatch.setattr(library, "compute", compute)
    engine = BatchingEngine(network, make_tokenizer())
    try:
        requests = []
        for prompt in PROMPTS:  # each begins while the one before is decoded
            requests.append(Caught(engine, prompt))
            assert requests[-1].first.wait(120)
        assert [request.wait().ids for request in requests] == expected
    finally:
        engine.close()
    # two layers
    assert sum(num_rows) == 2 * sum(len(prompt) + len(ids) - 1 for prompt, ids in zip(PROMPTS, expected, strict=True))
    assert num_layers == [1, 1, *[2] * (len(num_layers) - 2)]  # once both are known, one call computes them


@pytest.mark.parametrize(("family", "is_int8"), [("llama", False), ("llama", True), ("qwen2", False), ("qwen3", False)])
def test_a_token_behind_a_prompt_has_the_probability_of_the_same_token_generated_bit_for_bit(
    family: str, is_int8: bool, library: Library
) -> None:
    network = make_family(family)
    fuse_layers(network, library=library)
    if is_int8:
        replace_layers(network, library=library)
    prompt = make_tokenizer()("A story that is longer than a page. " * 4)["input_ids"]
    generated = answer([Request(prompt, tokens=40)], network)[0]
    again = [Request([*prompt, *(token.token_id for token in generated[:count])], tokens=1) for count in (1, 9, 25, 39)]
    assert [tokens[0] for tokens in answer(again, network)] == [generated[count] for count in (1, 9, 25, 39)]


def round_weights(network: Any, dtype: torch.dtype) -> None:
    for parameter in network.parameters():
        parameter.data = parameter.data.to(dtype).float()


def store_exactly(network: Any, library: Library) -> int:
    return store_in_16_bits(network, library=library, choose=lambda _, weight: exact_format(weight, library=library))


def products_of(network: Any) -> dict[str, torch.dtype]:
    return {
        name: module.weight.dtype
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Linear | ShortWeights)
    }


@pytest.mark.parametrize(
    ("family", "dtype"), [("llama", torch.bfloat16), ("qwen2", torch.float16), ("qwen3", torch.bfloat16)]
)
def test_weights_stored_in_16_bits_give_the_probabilities_of_float32_bit_for_bit(
    family: str, dtype: torch.dtype, library: Library
) -> None:
    networks = [make_family(family) for _ in range(2)]
    for network in networks:
        round_weights(network, dtype)
        fuse_layers(network, library=library)
    assert store_exactly(networks[1], library) == 9  # four products of two layers, and the head
    assert set(products_of(networks[0]).values()) == {torch.float32}
    assert set(products_of(networks[1]).values()) == {dtype}
    embedding = networks[1].get_input_embeddings()
    assert isinstance(embedding, ShortEmbedding)
    assert (embedding.weight is networks[1].lm_head.weight) == networks[1].config.tie_word_embeddings
    assert networks[1].dtype == torch.float32
    prompts = [
        make_tokenizer()(prompt)["input_ids"]
        for prompt in ("A story that is longer than a page. " * 4, "Once", "Tell me a story: ")
    ]
    requests = [Request(prompt, tokens=20) for prompt in prompts]
    assert answer(requests, networks[1]) == answer(requests, networks[0])


def test_a_matrix_with_a_value_that_no_format_of_16_bits_holds_stays_float32(library: Library) -> None:
    network = make_llama()
    round_weights(network, torch.bfloat16)
    network.model.layers[1].mlp.down_proj.weight.data[2, 3] = 0.1
    fuse_layers(network, library=library)
    assert store_exactly(network, library) == 8
    formats = products_of(network)
    assert {name for name, dtype in formats.items() if dtype is not torch.bfloat16} == {"model.layers.1.down_proj"}
    assert formats["model.layers.1.down_proj"] == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 2, 4, 23, 24, 67])
def test_products_with_16_bits_have_the_bits_of_those_with_32(rows: int, dtype: torch.dtype, library: Library) -> None:
    torch.manual_seed(rows)
    layer = torch.nn.Linear(1040, 45).requires_grad_(False)
    layer.weight[0, :16] *= 1e-6  # among them, numbers below the normal ones of float16
    layer.weight.copy_(layer.weight.to(dtype).float())
    inputs = torch.randn(rows, 1040)
    short = ShortWeights(layer.weight.to(dtype), layer.bias, library)
    assert torch.equal(short(inputs), FloatWeights(layer, library)(inputs))
    assert torch.allclose(short(inputs), layer(inputs), atol=1e-5)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1.0, -2.5, 0.0], torch.bfloat16),
        ([1.0, 2.0**127, 2.0**-130], torch.bfloat16),
        ([1.0, 1.0009765625, 2.0**-24], torch.float16),
        ([1.0, 0.1, 0.2], None),
        ([1.0009765625, 2.0**127, 0.0], None),
        ([1.0, float("nan"), 0.0], None),
    ],
    ids=["both", "large and tiny", "fine", "neither", "one of each", "no number"],
)
def test_the_format_of_a_matrix_is_one_that_holds_all_its_values(
    values: list[float], dtype: torch.dtype | None, library: Library
) -> None:
    weight = torch.tensor([values, [0.0, 1.0, -1.0]])
    assert exact_format(weight, library=library) == dtype


def test_layers_with_adapters_stay_as_they_are() -> None:
    network = make_llama()

    class Adapted(torch.nn.Linear):
        pass

    network.model.layers[1].mlp.up_proj = Adapted(64, 128, bias=False)
    assert fuse_layers(network) == 0
    assert not any(isinstance(module, FusedLayer) for module in network.modules())


@pytest.mark.parametrize("rows", [1, 3, 8, 24, 70])
def test_products_in_int8_are_close_to_float32_and_do_not_depend_on_the_batch(rows: int, library: Library) -> None:
    torch.manual_seed(rows)
    weight, bias, inputs = torch.randn(45, 4160), torch.randn(45), torch.randn(rows, 4160)
    inputs[..., 3] *= 100
    layer = Int8Weights(weight, bias, library)
    rounded = layer.weight.float() * layer.scale.unsqueeze(1)
    result = layer(inputs)
    expected = torch.nn.functional.linear(inputs.double(), rounded.double(), bias.double())
    assert float((result - expected).norm() / expected.norm()) < 2e-3
    assert torch.equal(torch.cat([layer(row) for row in inputs.split(1)]), result)
    assert torch.equal(copy.deepcopy(layer)(inputs), result)


def test_a_library_is_compiled_once_and_then_needs_no_compiler(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr("jobs.serving.native.library.FLAGS", [flag.replace("-O3", "-O0") for flag in FLAGS])
    assert compile_library(tmp_path) is not None
    monkeypatch.setenv("PATH", "")
    assert compile_library(tmp_path) is not None
    assert compile_library(tmp_path / "empty") is None
    assert "no C++ compiler" in caplog.text


def test_the_number_of_threads_that_is_faster_is_used_and_the_other_tried_again() -> None:
    choice, seconds = ThreadChoice(), {1: 1.0, 2: 1.3}

    def calls(count: int) -> list[int]:
        numbers = []
        for _ in range(count):
            numbers.append(choice.pick("step", 2))
            choice.note("step", numbers[-1], seconds[numbers[-1]])
        return numbers

    assert sorted(calls(2 * TRIALS)) == [1] * TRIALS + [2] * TRIALS
    assert calls(2 * RETRY).count(2) == 2
    seconds[2] = 0.6  # the cores have become free
    calls(TRIALS * RETRY)
    assert calls(2 * RETRY).count(1) == 2
    assert choice.pick("prompt", 2) == 2


@pytest.mark.parametrize("is_int8", [False, True])
def test_answers_have_the_same_bits_with_any_number_of_threads(
    is_int8: bool, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = make_llama()
    fuse_layers(network, library=library)
    if is_int8:
        replace_layers(network, library=library)
    prompt = make_tokenizer()("A story that is longer than a page. " * 4)["input_ids"]
    requests = [Request(prompt, tokens=30), Request(prompt[:9], tokens=30)]
    answers = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        answers.append(answer(requests, copy.deepcopy(network)))
    assert answers[0] == answers[1] == answers[2]


def test_a_rotation_that_is_too_small_for_its_rows_is_refused_before_anything_is_read(library: Library) -> None:
    layers, batches = (Layer * 1)(), (Batch * 1)()
    layers[0].channels, batches[0].rows, batches[0].rotation_size = 8, 3, 16
    with pytest.raises(ValueError, match="3 rows of 8 channels need more than 16"):
        library.compute(layers, batches, torch.zeros(3, 16))
