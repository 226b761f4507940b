"""int8 on a CPU: layers close to their originals, a check that sees damage, and a deployment that is refused for it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from backend.domain.serving.precision import PrecisionCheck
from backend.errors import JobFailed
from jobs.serving.precision import Int8Linear, quantise_and_check
from jobs.serving.start import generate_one_token, start_engine
from tests.support.networks.serving_networks import make_gpt2, make_llama, make_tokenizer


def test_a_layer_with_an_outlier_channel_is_close_to_its_original() -> None:
    torch.manual_seed(0)
    weight, bias, inputs = torch.randn(64, 96) / 10, torch.randn(64), torch.randn(5, 7, 96)
    inputs[..., 3] *= 60  # as in trained networks: one channel far larger than the others
    expected = torch.nn.functional.linear(inputs, weight, bias)
    smooth = inputs.abs().flatten(0, -2).amax(0).sqrt() / weight.abs().amax(0).sqrt()
    error = (Int8Linear(weight, bias, smooth)(inputs) - expected).norm() / expected.norm()
    plain = (Int8Linear(weight, bias, torch.ones(96))(inputs) - expected).norm() / expected.norm()
    assert error < 0.02
    assert error < plain


def test_each_token_has_a_scale_of_its_own() -> None:
    torch.manual_seed(0)
    layer = Int8Linear(torch.randn(64, 64), None, torch.ones(64))
    quiet = torch.randn(1, 64)
    beside_a_loud_one = torch.cat([quiet, 1000 * torch.randn(1, 64)])
    assert torch.allclose(layer(beside_a_loud_one)[0], layer(quiet)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [make_llama, make_gpt2], ids=["llama", "gpt2"])
def test_a_quantised_network_is_served_and_its_check_is_near_one(make: Any) -> None:
    network = make()
    check = quantise_and_check(network, max_perplexity_ratio=1.05)
    assert 0.95 < check.perplexity_ratio < 1.05
    assert check.greedy_agreement > 0.85
    assert check.num_layers >= 8
    assert isinstance(network.get_output_embeddings(), Int8Linear)
    engine = start_engine(network, make_tokenizer(), kind="batching")
    try:
        generate_one_token(engine)
    finally:
        engine.close()


def test_where_quality_suffers_the_last_layers_of_the_mlps_stay_float32() -> None:
    network = make_llama()
    check = quantise_and_check(network, max_perplexity_ratio=0.0001)
    assert check.num_float_layers == 2
    assert isinstance(network.model.layers[0].mlp.down_proj, torch.nn.Linear)
    assert isinstance(network.model.layers[0].mlp.up_proj, Int8Linear)
    assert isinstance(copy.deepcopy(network).model.layers[0].mlp.up_proj, Int8Linear)


def test_a_check_beyond_its_limit_is_refused_with_its_figures() -> None:
    check = PrecisionCheck(precision="int8", perplexity_ratio=1.2, greedy_agreement=0.71, num_tokens=188, num_layers=211)
    check.require(max_perplexity_ratio=1.25)
    with pytest.raises(JobFailed, match=r"1\.200 times.*1\.05.*71\.0%"):
        check.require(max_perplexity_ratio=1.05)
