"""Share a network out over the processes of a run by FSDP2, block by block (Zhao et al. 2023, arXiv 2304.11277), while
it is loaded: each process builds it without weights and reads its own share from the base, so none ever holds all. One
process alone reads a frozen base so, into fewer bits.

Read whole, and shared out afterwards, is what has no weights yet or needs them at once: a new network, DoRA and PiSSA,
which start from the base's matrices, scoring networks, a base that is an adapter, and a mixture of experts, whose
matrices transformers joins while it reads them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import torch
from torch import nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load as load_checkpoint
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from backend.domain.training.config import RunConfig
from jobs.modeling.blocks import find_blocks
from jobs.modeling.checkpoints import build_without_weights, check_folder, is_adapter, read_tensor_shapes
from jobs.training.distributed.process_group import ProcessGroup

BASE_LAYER = ".base_layer."
"""Part that PEFT inserts into the name of a matrix with an adapter."""


def is_shared_out(config: RunConfig, group: ProcessGroup) -> bool:
    """Return whether each process of a run holds a share of its network."""
    return group.count > 1 and config.devices.sharding == "fsdp"


def build_unread(folder: Path, config: RunConfig) -> Any | None:
    """Build a checkpoint's network without weights for `read_weights`; None if it has to be read whole."""
    check_folder(folder)
    starts_from_weights = config.method != "full" and config.lora.variant not in ("lora", "rslora")
    if is_adapter(folder) or config.method == "qlora" or starts_from_weights or not config.objective.facts.writes:
        return None
    network = build_without_weights(folder, with_buffers=True, dropout=config.dropout)
    stored = {
        name: shape
        for file in sorted(folder.glob("*.safetensors"))
        for name, (_, shape) in read_tensor_shapes(file).items()
    }
    names: dict[int, list[str]] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
        if stored.get(name, tuple(tensor.shape)) != tuple(tensor.shape):
            return None
    return network if all(any(name in stored for name in same) for same in names.values()) else None


def is_unread(network: nn.Module) -> bool:
    """Return whether a network lacks weights, those of adapters aside."""
    return any(parameter.is_meta for parameter in network.parameters())


def add_to_unread(network: nn.Module, add: Callable[[], peft.PeftModel]) -> peft.PeftModel:
    """Call `add`, which puts adapters on a network. PEFT moves each adapter to the device of its matrix: to this one
    of a stand-in, so that its first values are kept.
    """
    with _stand_ins(network):
        model = add()
    for parameter in network.parameters():
        if parameter.is_meta:
            parameter.requires_grad_(False)
    return model


@contextmanager
def _stand_ins(network: nn.Module) -> Iterator[None]:
    replaced = [
        (module, weight)
        for module in network.modules()
        if isinstance(weight := getattr(module, "weight", None), nn.Parameter)
    ]
    for module, weight in replaced:
        module.weight = nn.Parameter(torch.zeros(()).expand(weight.shape))  # its shape without its memory
    try:
        yield
    finally:
        for module, weight in replaced:
            module.weight = weight


def share_out(model: Any, *, device: torch.device, count: int) -> None:
    """Shard a network in place over `count` processes. Types of numbers may differ where they are frozen."""
    mesh = init_device_mesh(device.type, (count,))
    for block in find_blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


@torch.no_grad()
def read_weights(model: Any, folder: Path, *, device: torch.device) -> None:
    """Read the weights of an unread network from a checkpoint's folder, of a shared one this process's share."""
    network = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    model._apply(lambda tensor: torch.empty_like(tensor, device=device) if tensor.is_meta else tensor)
    network.tie_weights()  # `_apply` made two of a matrix that serves as embedding and head
    stored = {name for file in folder.glob("*.safetensors") for name in read_tensor_shapes(file)}
    shares = {
        original: tensor
        for name, tensor in network.state_dict().items()
        if (original := name.replace(BASE_LAYER, ".")) in stored
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # each reads on its own
        load_checkpoint(shares, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
