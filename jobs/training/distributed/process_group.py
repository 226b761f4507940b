"""The processes that train one network: their ranks, their share of a step, and the collectives between them.

`ProcessGroup()` is a single process, for which every method is the identity or a no-op. With several devices each rank
builds the same network and the same batches, computes its share of the micro-batches, and ends the step with the same
weights; how they share network and update is a `Strategy` (jobs/training/strategy.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, distribute_tensor

from backend.domain.jobs.states import StopRequest
from jobs.modeling.devices import is_gpu

Item = TypeVar("Item")
REQUESTS: tuple[StopRequest | None, ...] = (None, "stop_and_save", "cancel")


@dataclass(frozen=True)
class ProcessGroup:
    """This process's rank among those that train together."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1
    patient: Any = None
    """The same processes in a group of their own, for waits that may last: files are made, or saved."""

    @property
    def is_first(self) -> bool:
        """Return whether this process reports and saves."""
        return self.rank == 0

    @property
    def is_first_here(self) -> bool:
        """Return whether this process makes the files that those of its machine read."""
        return self.local_rank == 0

    @property
    def machine(self) -> int:
        """Return the number of this process's machine."""
        return self.rank // self.local_count

    def local_share(self, micro_batches: Sequence[Item]) -> list[Item]:
        """Return this rank's micro-batches of a step, every `count`-th."""
        return list(micro_batches[self.rank :: self.count])

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over all ranks."""
        if self.count > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def broadcast_request(self, request: StopRequest | None) -> StopRequest | None:
        """Return the first rank's stop request, so that all ranks stop at the same step."""
        if self.count == 1:
            return request
        index = torch.tensor(REQUESTS.index(request))
        if dist.get_backend() != "gloo":
            index = index.to(torch.accelerator.current_accelerator())
        dist.broadcast(index, src=0)
        return REQUESTS[int(index)]

    def gather(self, value: Item) -> list[Item]:
        """Collect a picklable value from every rank, in rank order. All ranks call this."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    @contextmanager
    def first_rank_first(self) -> Iterator[None]:
        """Run a block on the first rank of each machine, then on the others, which read its cache."""
        if not self.is_first_here:
            self.barrier()
        try:
            yield
        finally:
            if self.is_first_here:
                self.barrier()

    def barrier(self) -> None:
        """Wait for all ranks, for as long as one of them may be busy by itself."""
        if self.count > 1:
            dist.barrier(group=self.patient)


COLLECTIVE_TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for the others within a step; torch's own default for NCCL."""
PATIENCE = timedelta(hours=24)
"""How long a rank waits while another one prepares data or saves. Lost machines end a run before: leases lapse."""


def join_process_group(device: torch.device) -> ProcessGroup:
    """Join the group that the environment describes; a single process without such an environment."""
    if "WORLD_SIZE" not in os.environ:
        return ProcessGroup()
    if not dist.is_initialized():
        if is_gpu(device):
            torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]))
        backend = dist.get_default_backend_for_device(device.type)
        dist.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)
    return ProcessGroup(
        rank=dist.get_rank(),
        count=dist.get_world_size(),
        local_rank=int(os.environ["LOCAL_RANK"]),
        local_count=int(os.environ["LOCAL_WORLD_SIZE"]),
        patient=dist.new_group(backend="gloo", timeout=PATIENCE),
    )


def gather_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor unsharded, on the CPU. All ranks call this for the same tensors in the same order."""
    tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return tensor.detach().cpu().contiguous()


def shard_like(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Shard a whole tensor as a parameter of the same shape is sharded; return it as is for one that is not."""
    if isinstance(parameter, DTensor) and tensor.shape == parameter.shape:
        return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)
    return tensor


def whole_shape(parameter: torch.Tensor) -> torch.Size:
    """Return the shape of a parameter as a whole, also of one that DeepSpeed took apart."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))
