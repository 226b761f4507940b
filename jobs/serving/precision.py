"""Serve a network in fewer bits on a CPU: its linear layers behind modules of our own, and the price of bfloat16 or
int8 in quality, measured.

Most published checkpoints are bfloat16 or float16. Computed in float32, a token costs the time to read the weights, so
matrices whose values all fit are stored in 16 bits, at no loss: they are widened before they are multiplied.

Of int8: with the compiled library, weights have 8 bits and activations 15 (`native/library.py`). Without a compiler,
torch's operator multiplies; it adds two products of 8 bits in 16 bits on CPUs without VNNI: activations are two digits
of 7 bits, two rows of one product. Activations have one scale per token (dynamic quantisation), weights one per
output. Embeddings, norms and attention stay float32. In bfloat16, weights and embeddings have 16 bits, and all
arithmetic is float32.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from backend.domain.serving.precision import Precision, PrecisionCheck
from backend.errors import InvalidInput
from jobs.modeling.precision_check import compare_precisions, log_probabilities, write_texts
from jobs.serving.native.library import GROUP, STEP, FloatWeights, Int8Weights, Library, ShortWeights

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


MIN_INPUTS = 32  # layers narrower than this stay float32: they take no time
LEVELS, DIGIT_LEVELS = 127, 63  # the largest integers of 8 and 7 bits
SECOND_DIGIT = 2 * DIGIT_LEVELS  # a remainder is at most half a level, and its digit has as many levels as the first
multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32


class Int8Linear(nn.Module):
    """A linear layer with int8 weights, by torch's operator. `weight` [out, in], `bias` [out] or None."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._bias = bias
        scales = (weight.abs().amax(1) / LEVELS).clamp(min=1e-8)
        rounded = (weight / scales.unsqueeze(1)).round().clamp(-LEVELS, LEVELS).to(torch.int8)
        zeros = torch.zeros(self.out_features, dtype=torch.long)
        # tensors of quantised types are deprecated; this one lives only until it is packed
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quantised = torch._make_per_channel_quantized_tensor(rounded, scales.double(), zeros, 0)
            self._packed = torch.ops.quantized.linear_prepack(quantised, None)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return `inputs` [..., in] times the weights [..., out]."""
        rows = inputs.flatten(0, -2)
        # The operator has one scale for all tokens. In levels of its own, every token is independent of what shares the
        # batch.
        level = torch.linalg.vector_norm(rows, ord=math.inf, dim=-1, keepdim=True).clamp_(min=1e-12).div_(DIGIT_LEVELS)
        first = rows / level
        second = torch.sub(first, first.round()).mul_(SECOND_DIGIT)  # lost by rounding
        products = multiply(torch.cat((first, second)), 1.0, DIGIT_LEVELS + 1, self._packed)
        result: torch.Tensor = products[: len(rows)].add_(products[len(rows) :], alpha=1 / SECOND_DIGIT).mul_(level)
        result = result if self._bias is None else result.add_(self._bias)
        return result.view(*inputs.shape[:-1], self.out_features)

    def __deepcopy__(self, memo: object) -> Int8Linear:
        """Return the same layer: it has no state that a copy could need for itself."""
        return self


@torch.inference_mode()
def quantise_and_check(
    network: Any, *, precision: Precision = "int8", library: Library | None = None
) -> PrecisionCheck:
    """Put a network into int8 or bfloat16 in place; return the change of its perplexity and greedy choices on texts of
    its own.

    Raises InvalidInput off the CPU, for bfloat16 without a compiled library, and for a network that the precision
    destroys.
    """
    if network.device.type != "cpu":
        raise InvalidInput(
            f"{precision} is served on CPUs only.", remedy="Deploy with precision float32.", field="precision"
        )
    if precision == "bfloat16" and library is None:
        raise InvalidInput(
            "bfloat16 on a CPU needs a C++ compiler.",
            remedy="Install g++ or clang++, or deploy with precision float32.",
            field="precision",
        )
    texts = write_texts(network)
    before = log_probabilities(network, texts)
    num_layers = (
        _round(network, library)
        if library is not None and precision == "bfloat16"
        else replace_layers(network, library=library)
    )
    after = log_probabilities(network, texts)
    return compare_precisions(before, after, precision=precision, num_layers=num_layers)


def _linear_layers(network: Any) -> Iterator[tuple[str, nn.Module]]:
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and _weight(module).shape[1] >= MIN_INPUTS:
            yield name, module


def _weight(module: Any) -> torch.Tensor:
    """Return a layer's weights [out, in]."""
    weight: torch.Tensor = module.weight.detach().float()
    return weight.t() if isinstance(module, Conv1D) else weight


def replace_layers(network: Any, *, library: Library | None) -> int:
    """Put int8 layers in the place of the linear ones; return their number. On the meta device they have no weights."""
    layers = list(_linear_layers(network))
    for name, module in layers:
        parent, _, child = name.rpartition(".")
        weight, bias = _weight(module), getattr(module, "bias", None)
        bias = None if bias is None else bias.detach().float()
        layer: nn.Module = (
            Int8Linear(weight, bias)
            if library is None or weight.shape[1] % STEP or weight.shape[0] < GROUP
            else Int8Weights(weight, bias, library)
        )
        setattr(network.get_submodule(parent), child, layer)
    return len(layers)


def _round(network: Any, library: Library) -> int:
    """Store linear layers and embeddings in bfloat16, or in float16 where that holds them; return how many."""
    return store_in_16_bits(
        network, library=library, choose=lambda _, weight: exact_format(weight, library=library) or torch.bfloat16
    )
