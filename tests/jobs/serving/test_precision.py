"""int8 on a CPU: layers close to their originals, a check that sees damage, and a deployment that is refused for it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from backend.domain.serving.precision import PrecisionCheck
from backend.errors import InvalidInput, JobFailed
from jobs.serving import precision
from jobs.serving.fused_layers import fuse_layers
from jobs.serving.native.library import Int8Weights, Library
from jobs.serving.precision import Int8Linear, quantise_and_check
from jobs.serving.start import generate_one_token, start_engine
from tests.support.networks.serving_networks import make_gpt2, make_llama, make_tokenizer


def test_a_layer_with_an_outlier_channel_is_close_to_its_original() -> None:
    torch.manual_seed(0)
    weight, bias, inputs = torch.randn(64, 96) / 10, torch.randn(64), torch.randn(5, 7, 96)
    inputs[..., 3] *= 60  # as in trained networks: one channel far larger than the others
    expected = torch.nn.functional.linear(inputs, weight, bias)
    rounded = (weight / (scale := weight.abs().amax(1, keepdim=True) / 127)).round() * scale
    result = Int8Linear(weight, bias)(inputs)
    assert (result - expected).norm() / expected.norm() < 0.01
    assert (result - torch.nn.functional.linear(inputs, rounded, bias)).norm() / expected.norm() < 0.001


def test_each_token_has_a_scale_of_its_own() -> None:
    torch.manual_seed(0)
    layer = Int8Linear(torch.randn(64, 64), None)
    quiet = torch.randn(1, 64)
    beside_a_loud_one = torch.cat([quiet, 1000 * torch.randn(1, 64)])
    assert torch.equal(layer(beside_a_loud_one)[:1], layer(quiet))


@pytest.mark.parametrize("make", [make_llama, make_gpt2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("is_compiled", [True, False], ids=["compiled", "operators"])
def test_a_quantised_network_is_served_and_its_check_is_near_one(
    make: Any, is_compiled: bool, library: Library
) -> None:
    network = make()
    fuse_layers(network, library=library if is_compiled else None)
    check = quantise_and_check(network, library=library if is_compiled else None)
    assert 1 <= check.perplexity_ratio < 1.001
    assert check.greedy_agreement > 0.94
    assert check.num_layers >= 8
    assert isinstance(copy.deepcopy(network).get_output_embeddings(), Int8Weights if is_compiled else Int8Linear)
    engine = start_engine(network, make_tokenizer(), kind="batching")
    try:
        generate_one_token(engine)
    finally:
        engine.close()


def test_a_network_that_int8_destroys_is_refused_and_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    def destroy(network: Any, *, library: Library | None) -> int:
        network.get_output_embeddings().weight.fill_(float("nan"))
        return 1

    network = make_llama()
    network.lm_head.weight = torch.nn.Parameter(network.lm_head.weight.detach().clone())  # no longer the embedding
    monkeypatch.setattr(precision, "replace_layers", destroy)
    with pytest.raises(InvalidInput, match="no usable probabilities"):
        quantise_and_check(network)


def test_a_check_beyond_its_limit_is_refused_with_its_figures() -> None:
    check = PrecisionCheck(
        precision="int8", perplexity_ratio=1.2, greedy_agreement=0.71, num_tokens=188, num_layers=211
    )
    check.require(max_perplexity_ratio=1.25)
    with pytest.raises(JobFailed, match=r"1\.200 times.*1\.05.*71\.0 %"):
        check.require(max_perplexity_ratio=1.05)
