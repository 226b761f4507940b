"""Strategies by which a run's processes share its network and its update; the loop knows no other interface.

`Strategy` is one process. `Replicas` is DDP: a network per process, gradients averaged (Li et al. 2020, arXiv
2006.15704). `Shards` is FSDP2: weights, gradients and optimizer state sharded (Zhao et al. 2023, arXiv 2304.11277).
`jobs.training.zero` is DeepSpeed's ZeRO 2 and 3. All average gradients over the processes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from jobs.modeling.blocks import find_blocks
from jobs.modeling.devices import is_gpu
from jobs.training.context import TrainingContext
from jobs.training.network.optimizers import make_optimizer


class Strategy:
    """A network in training, with its optimizer. `forward` is the module to call: `model` itself, wrapped or
    compiled.
    """

    def __init__(self, model: torch.nn.Module, ctx: TrainingContext) -> None:
        self.model = model
        self.forward = self._wrap(model, ctx)
        self.optimizer: torch.optim.Optimizer = make_optimizer(model, ctx.config)

    def _wrap(self, model: torch.nn.Module, ctx: TrainingContext) -> torch.nn.Module:
        """Return the module to call in training."""
        return model

    @contextmanager
    def micro_batch(self, *, is_last: bool) -> Iterator[None]:
        """Enclose the passes of a micro-batch: gradients are reduced in the backward pass of a step's last one."""
        yield

    def backward(self, loss: torch.Tensor) -> None:
        """Add the loss's gradients to those of the step."""
        torch.autograd.backward(loss)

    def clip(self, limit: float) -> torch.Tensor:
        """Limit the norm of the step's gradient over all processes, 0 for no limit; return it as it was."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        return torch.nn.utils.clip_grad_norm_(parameters, limit or math.inf)

    def step(self, scaler: torch.amp.GradScaler | None = None) -> None:
        """Update the weights; the scaler skips the update if fp16 overflowed, and lowers its scale."""
        if scaler is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)
            scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def without_gradients(self) -> AbstractContextManager[Any]:
        """Enclose passes of validation and samples."""
        return torch.inference_mode()

    def full_weights(self) -> dict[str, torch.Tensor] | None:
        """Gather the weights of a sharded network on the first rank; None for a network that is not sharded. All ranks
        call this.
        """
        return None


class ReplicatedModel(DistributedDataParallel):
    """DDP that forwards unknown attributes to its network, so that an objective need not tell the two apart."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)


class Replicas(Strategy):
    """DDP."""

    def _wrap(self, model: torch.nn.Module, ctx: TrainingContext) -> torch.nn.Module:
        self._replica = ReplicatedModel(model, device_ids=[ctx.device.index or 0] if is_gpu(ctx.device) else None)
        return self._replica

    @contextmanager
    def micro_batch(self, *, is_last: bool) -> Iterator[None]:
        """Reduce gradients in the last backward pass only."""
        if is_last:
            yield
        else:
            with self._replica.no_sync():
                yield


class Shards(Strategy):
    """FSDP2. Shards the network in place, block by block."""

    def _wrap(self, model: torch.nn.Module, ctx: TrainingContext) -> torch.nn.Module:
        mesh = init_device_mesh(ctx.device.type, (ctx.process_group.count,))
        for block in find_blocks(model):
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model

    @contextmanager
    def micro_batch(self, *, is_last: bool) -> Iterator[None]:
        """Reduce gradients in the last backward pass only."""
        assert isinstance(self.model, FSDPModule)
        self.model.set_requires_gradient_sync(is_last)
        yield

    def full_weights(self) -> dict[str, torch.Tensor] | None:
        """Gather all weights."""
        weights: Any = get_model_state_dict(
            self.model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
        )
        return dict(weights)
