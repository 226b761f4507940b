"""Several processes that train one network: what each does of a step, and what they tell each other.

`Team()` is one process alone, for which everything here does nothing. In a job of several devices each rank builds the same network
and the same batches, takes its share of the micro-batches, and after the step all hold the same weights: gradients are averaged by DDP
(a whole copy a rank) or FSDP2 (weights, gradients and optimizer state in parts; Zhao et al. 2023, arXiv 2304.11277).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from jobs.reporter import StopRequest

Item = TypeVar("Item")
REQUESTS: tuple[StopRequest | None, ...] = (None, "stop_and_save", "cancel")


class Replicated(DistributedDataParallel):
    """DDP whose other attributes are the network's own, so that an objective need not know that it is there."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)


@dataclass(frozen=True)
class Team:
    """This process's place among those that train together."""

    rank: int = 0
    count: int = 1
    sharding: Literal["ddp", "fsdp"] = "ddp"

    @property
    def is_first(self) -> bool:
        """Whether this process reports and saves."""
        return self.rank == 0

    def wrap(self, model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
        """Return what is called in training. FSDP shards the network in place, block by block; its optimizer is made afterwards."""
        if self.count == 1:
            return model
        if self.sharding == "ddp":
            return Replicated(model, device_ids=[device.index or 0] if device.type == "cuda" else None)
        mesh = init_device_mesh(device.type, (self.count,))
        for block in _blocks(model):
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model

    def share(self, micro_batches: Sequence[Item]) -> list[Item]:
        """Return this process's micro-batches of a step. The batches deal out `count` times as many as one process would do."""
        return list(micro_batches[self.rank :: self.count])

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """Return the sum of a number over all processes."""
        if self.count > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    @contextmanager
    def exchanging(self, forward: torch.nn.Module, *, last: bool) -> Iterator[None]:
        """Exchange gradients in the backward pass of a step's last micro-batch alone."""
        if isinstance(forward, DistributedDataParallel) and not last:
            with forward.no_sync():
                yield
            return
        if isinstance(forward, FSDPModule):
            forward.set_requires_gradient_sync(last)
        yield

    def agree(self, request: StopRequest | None) -> StopRequest | None:
        """Return the first process's stop request: all stop at the same step, or those that go on would wait for ever."""
        if self.count == 1:
            return request
        told = torch.tensor(REQUESTS.index(request))
        if dist.get_backend() == "nccl":
            told = told.cuda()
        dist.broadcast(told, src=0)
        return REQUESTS[int(told)]

    def each(self, value: Item) -> list[Item]:
        """Return what every process holds, in the order of ranks. All processes call this."""
        if self.count == 1:
            return [value]
        held: list[Any] = [None] * self.count
        dist.all_gather_object(held, value)
        return held

    def whole_model(self, model: torch.nn.Module) -> dict[str, torch.Tensor] | None:
        """Return the weights put together, on the first process; None where the network holds them itself. All processes call this."""
        if self.count == 1 or self.sharding == "ddp":
            return None
        weights: Any = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        return dict(weights)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Let the first process do something before the others do it."""
        if not self.is_first:
            self.wait()
        try:
            yield
        finally:
            if self.is_first:
                self.wait()

    def wait(self) -> None:
        """Wait for all processes to come here."""
        if self.count > 1:
            dist.barrier()


def join_team(sharding: Literal["ddp", "fsdp"], *, device: torch.device) -> Team:
    """Join the processes that `torchrun` started, by its environment; one process alone where there is no such environment."""
    if "WORLD_SIZE" not in os.environ:
        return Team()
    if not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        # the others wait while the first tokenises or asks the reference, which may take long
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=24))
    return Team(rank=dist.get_rank(), count=dist.get_world_size(), sharding=sharding)


def whole(value: torch.Tensor) -> torch.Tensor:
    """Return a tensor put together from its parts, on the CPU. All processes call this for the same tensors in the same order."""
    value = value.full_tensor() if isinstance(value, DTensor) else value
    return value.detach().cpu().contiguous()


def like(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Return a whole tensor the way a parameter is held: cut into the same parts, if it has its shape and is cut at all."""
    if isinstance(parameter, DTensor) and value.shape == parameter.shape:
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value


def _blocks(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the repeated blocks of a network: the longest list of modules of one kind."""
    lists: list[Any] = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module) > 0]
    blocks = max(lists, key=lambda found: sum(p.numel() for p in found.parameters()), default=())
    return list(blocks)
