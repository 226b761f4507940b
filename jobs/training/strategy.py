"""Strategies by which a run's processes share its network and its update; the loop knows no other interface.

`Strategy` is one process. `Replicas` is DDP: a network per process, gradients averaged (Li et al. 2020, arXiv
2006.15704). `Shards` is FSDP2: weights, gradients and optimizer state sharded (jobs/training/network/shards.py).
`jobs.training.zero` is DeepSpeed's ZeRO 2 and 3. All average gradients over the processes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import peft
import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from jobs.modeling.devices import is_gpu
from jobs.training.context import TrainingContext
from jobs.training.network.optimizers import make_optimizer


class Strategy:
    """A network in training and its optimizer. `forward` is the module to call: `model` itself, wrapped or compiled."""

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
        """Gather the weights of a sharded network on the first rank; None if not sharded. All ranks call this."""
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
    """FSDP2, of a network that was shared out when it was loaded."""

    def _wrap(self, model: torch.nn.Module, ctx: TrainingContext) -> torch.nn.Module:
        assert isinstance(model, FSDPModule)
        model.reshard()  # trials before training leave embedding and head whole
        return model

    @contextmanager
    def micro_batch(self, *, is_last: bool) -> Iterator[None]:
        """Reduce gradients in the last backward pass only."""
        assert isinstance(self.model, FSDPModule)
        self.model.set_requires_gradient_sync(is_last)
        yield

    def full_weights(self) -> dict[str, torch.Tensor] | None:
        """Gather the weights, of a network with adapters those of the adapters."""
        options = StateDictOptions(
            full_state_dict=True, cpu_offload=True, ignore_frozen_params=isinstance(self.model, peft.PeftModel)
        )
        weights: Any = get_model_state_dict(self.model, options=options)
        first: dict[int, str] = {}
        for name, tensor in self.model.state_dict(keep_vars=True).items():
            if name in weights:  # a head that is the embedding was gathered twice, and is saved once
                weights[name] = weights[first.setdefault(id(tensor), name)]
        return dict(weights)
