"""Decoder blocks are found in every family, under adapters, and not mistaken for lists of experts."""

from __future__ import annotations

import peft
import pytest
import torch
from torch import nn

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.families import FAMILIES
from jobs.modeling.blocks import find_blocks
from jobs.modeling.build import build_network

SHAPE = {"num_layers": 3, "width": 32, "num_heads": 4, "context": 32, "vocab_size": 64}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_blocks_of_every_family_are_its_layers_in_order(family: str) -> None:
    network = build_network(ArchitectureConfig.model_validate({**SHAPE, "family": family}), seed=1)
    calls: list[int] = []
    blocks = find_blocks(network)
    for index, block in enumerate(blocks):
        block.register_forward_hook(lambda *_, index=index: calls.append(index))
    with torch.no_grad():
        network.eval()(input_ids=torch.arange(8)[None])
    assert calls == [0, 1, 2]


def test_blocks_are_found_under_adapters() -> None:
    network = build_network(ArchitectureConfig.model_validate(SHAPE), seed=1)
    blocks = find_blocks(network)
    adapted = peft.get_peft_model(network, peft.LoraConfig(r=2, target_modules="all-linear"))
    assert find_blocks(adapted) == blocks  # type: ignore[arg-type]


def test_a_deeper_list_of_the_same_length_is_not_mistaken_for_the_blocks() -> None:
    network = build_network(ArchitectureConfig.model_validate(SHAPE), seed=1)
    blocks = find_blocks(network)
    blocks[0].add_module("experts", nn.ModuleList([nn.Linear(2, 2) for _ in blocks]))
    assert find_blocks(network) == blocks


def test_a_network_without_a_list_of_layers_has_no_blocks() -> None:
    network = build_network(ArchitectureConfig.model_validate(SHAPE), seed=1)
    network.config.num_hidden_layers = 7
    assert find_blocks(network) == []
