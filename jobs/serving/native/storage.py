"""Weights stored in 16 bits: of matrices whose values all fit, at no loss, since they are widened before they are
multiplied.

Most published checkpoints are bfloat16 or float16. On a CPU they are computed in float32, where a token costs the time
to read the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from jobs.serving.native.library import GROUP, STEP, FloatWeights, Library, ShortWeights

Choose = Callable[[str, torch.Tensor], "torch.dtype | None"]
"""The format in which to store weights [out, in], given their name; None for float32."""
PART_ROWS = 1024


class ShortEmbedding(nn.Module):
    """An embedding with weights of 16 bits, whose vectors are float32."""

    weight: torch.Tensor

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the vectors [..., width] of token ids [...]."""
        return nn.functional.embedding(ids, self.weight).float()


def store_in_16_bits(network: Any, *, library: Library, choose: Choose) -> int:
    """Store linear layers and the token embedding of a network in the formats chosen for them, in place; return the
    number of layers.

    Weights that layers share are stored once. At no time are more than one layer's weights held twice.
    """
    num_layers = 0
    for names in list(_matrices(network)):
        first: Any = network.get_submodule(names[0])
        weight = first.weight.detach().t() if isinstance(first, Conv1D) else first.weight.detach()
        dtype = choose(f"{names[0]}.weight", weight)
        if dtype is None:
            continue
        stored = weight.to(dtype).contiguous()
        del weight, first
        for name in names:
            module: Any = network.get_submodule(name)
            bias = None if getattr(module, "bias", None) is None else module.bias.detach()
            is_embedding = isinstance(module, nn.Embedding)
            parent, _, child = name.rpartition(".")
            setattr(
                network.get_submodule(parent),
                child,
                ShortEmbedding(stored) if is_embedding else ShortWeights(stored, bias, library),
            )
            num_layers += not is_embedding
    return num_layers


def exact_format(weight: torch.Tensor, *, library: Library) -> torch.dtype | None:
    """Return the format of 16 bits that holds every value of float32 weights; None where there is none."""
    parts = [weight[first : first + PART_ROWS] for first in range(0, len(weight), PART_ROWS)]
    formats = (
        dtype
        for dtype in library.formats_of_16_bits
        if all(torch.equal(part.to(dtype).float(), part) for part in parts)
    )
    return next(formats, None)


def _matrices(network: Any) -> Iterator[list[str]]:
    """Yield the names of the modules that hold each matrix of weights which the library can read in 16 bits."""
    embedding, head = network.get_input_embeddings(), network.get_output_embeddings()
    names: dict[int, list[str]] = {}
    for name, module in network.named_modules():
        if type(module) in (nn.Linear, FloatWeights, Conv1D) and _is_readable(module):
            names.setdefault(id(module.weight), []).append(name)
        elif module is embedding and type(module) is nn.Embedding and module.weight.dtype is torch.float32:
            is_tied = head is not None and head.weight is module.weight
            if not is_tied or _is_readable(head):
                names.setdefault(id(module.weight), []).append(name)
    yield from names.values()


def _is_readable(module: Any) -> bool:
    outputs, inputs = reversed(module.weight.shape) if isinstance(module, Conv1D) else module.weight.shape
    return module.weight.dtype is torch.float32 and inputs % STEP == 0 and outputs >= GROUP
