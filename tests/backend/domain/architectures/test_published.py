"""Published architectures: as many parameters as their authors' weights hold."""

from __future__ import annotations

import pytest

from backend.domain.architectures.cost import count_parameters
from backend.domain.architectures.published import PUBLISHED

PARAMETERS = {
    "GPT-2 small (124M)": 124_439_808,
    "GPT-2 medium (355M)": 354_823_168,
    "GPT-2 large (774M)": 774_030_080,
    "GPT-2 XL (1.6B)": 1_557_611_200,
    "SmolLM2 135M": 134_515_008,
    "SmolLM2 360M": 361_821_120,
    "SmolLM2 1.7B": 1_711_376_384,
    "SmolLM3 3B": 3_075_098_624,
    "Qwen3 0.6B": 596_049_920,
    "Qwen3 1.7B": 1_720_574_976,
    "Qwen3 4B": 4_022_468_096,
    "Qwen3 8B": 8_190_735_360,
    "Gemma 3 270M": 268_098_176,
    "Gemma 3 1B": 999_885_952,
    "TinyLlama 1.1B": 1_100_048_384,
    "Llama 3.2 1B": 1_235_814_400,
    "Llama 3.2 3B": 3_212_749_824,
    "Llama 3.1 8B": 8_030_261_248,
    "Mistral 7B": 7_241_732_096,
    "BLOOM 560M": 559_214_592,
}
"""Tensors of the published weights, a tied embedding counted once."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_architecture_has_the_parameters_of_its_weights(name: str) -> None:
    assert sum(count_parameters(PUBLISHED[name]).values()) == PARAMETERS[name]
