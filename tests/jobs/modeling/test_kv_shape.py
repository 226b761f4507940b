"""Bytes of keys and values by a config are those of the cache that transformers fills."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from jobs.modeling.kv_shape import has_heads, read_kv_shape
from tests.support.networks.serving_networks import make_gpt2, make_llama, make_mamba


@pytest.mark.parametrize("make_network", [make_llama, make_gpt2])
def test_a_tokens_bytes_are_those_of_the_cache(make_network: Callable[[], Any]) -> None:
    network = make_network()
    tokens = torch.tensor([[1, 2, 3]], device=network.device)
    layers = network(tokens, use_cache=True).past_key_values.layers
    held = sum(kept.numel() * kept.element_size() for layer in layers for kept in (layer.keys, layer.values))
    assert held == 3 * read_kv_shape(network.config).token_bytes(4)


def test_a_network_without_attention_has_no_heads() -> None:
    assert has_heads(make_llama().config)
    assert not has_heads(make_mamba().config)
