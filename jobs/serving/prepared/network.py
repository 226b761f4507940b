"""The tensors of a network that is ready to serve, and a network without memory of its own that takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backend.domain.serving.precision import Precision
from jobs.modeling.checkpoints import build_without_weights
from jobs.serving.fused_layers import fuse_layers
from jobs.serving.native.library import Library
from jobs.serving.native.storage import store_in_16_bits
from jobs.serving.precision import replace_layers

Tensors = Mapping[str, torch.Tensor]


def list_tensors(network: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return parameters and buffers by name, each once, and the names that share another's: {"lm_head.weight":
    "embed.weight"}.
    """
    names: dict[int, str] = {}
    tensors: dict[str, torch.Tensor] = {}
    shared: dict[str, str] = {}
    for name, tensor in _named_tensors(network):
        first = names.setdefault(id(tensor), name)
        if first == name:
            tensors[name] = tensor.detach()
        else:
            shared[name] = first
    return tensors, shared


def build_empty(folder: Path, tensors: Tensors, *, precision: Precision, library: Library | None) -> Any:
    """Return a checkpoint's network as it is served on a CPU, on torch's meta device, its formats of 16 bits those of
    `tensors`.
    """
    network = build_without_weights(folder)
    fuse_layers(network, library=library)
    if precision == "int8":
        replace_layers(network, library=library)
    elif library is not None:
        formats = {name: tensor.dtype for name, tensor in tensors.items() if tensor.dtype in library.formats_of_16_bits}
        store_in_16_bits(network, library=library, choose=lambda name, _: formats.get(name))
    return network


def fits(empty: nn.Module, tensors: Tensors, shared: Mapping[str, str]) -> bool:
    """Return whether tensors are all that an empty network lacks, of the same shapes and types."""
    expected, expected_shared = list_tensors(empty)
    if expected_shared != dict(shared) or _has_hidden_tensors(empty):
        return False
    return {name: (t.shape, t.dtype) for name, t in expected.items()} == {
        name: (t.shape, t.dtype) for name, t in tensors.items()
    }


def fill(empty: nn.Module, tensors: Tensors, shared: Mapping[str, str]) -> None:
    """Put tensors into an empty network, without copying them."""
    filled: dict[str, torch.Tensor] = {}
    for name in [*tensors, *shared]:
        parent, _, child = name.rpartition(".")
        module = empty.get_submodule(parent)
        if name in shared:
            tensor = filled[shared[name]]
        else:
            tensor = nn.Parameter(tensors[name], requires_grad=False) if child in module._parameters else tensors[name]
        filled[name] = tensor
        (module._parameters if child in module._parameters else module._buffers)[child] = tensor  # type: ignore[assignment]


def _named_tensors(network: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from network.named_parameters(remove_duplicate=False)
    yield from network.named_buffers(remove_duplicate=False)


def _has_hidden_tensors(network: nn.Module) -> bool:
    """Return whether a module holds tensors that are neither parameters nor buffers, which would stay on the meta
    device.
    """
    return any(isinstance(value, torch.Tensor) for module in network.modules() for value in vars(module).values())
