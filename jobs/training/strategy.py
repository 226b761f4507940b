"""Strategies by which a run's processes share its network and its update; the loop knows no other interface.

`Strategy` is one process. `Replicas` is DDP: a network per process, gradients averaged (Li et al. 2020, arXiv
2006.15704). `Shards` is FSDP2: weights, gradients and optimizer state sharded (`share_out` in
jobs/training/network/load.py). `ZeroStages` is DeepSpeed's ZeRO, driven directly. All average gradients over the
processes.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from typing import Any

import peft
import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from backend.domain.training.execution import BUCKET_ELEMENTS, check_sharding
from jobs.modeling.devices import is_gpu
from jobs.training.context import TrainingContext
from jobs.training.distributed import whole_shape
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


class ZeroStages(Strategy):
    """DeepSpeed's ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054), stages 2 and 3. Takes the network's tensors apart
    in place.

    Stage 2 shards gradients and optimizer state, stage 3 the weights too; with offload, gradients and optimizer state
    are in the memory of the CPU, which also computes the update. Network, optimizer, batches and learning rate are
    those of any run, and checkpoints have the same files: DeepSpeed's own are pickles that only as many processes can
    read.
    """

    def __init__(self, model: torch.nn.Module, ctx: TrainingContext) -> None:
        fp16 = {"precision": "fp16"} if ctx.autocast is torch.float16 else {}  # resolves precision "auto"
        check_sharding(ctx.config.model_copy(update=fp16), has_deepspeed=find_spec("deepspeed") is not None)
        self.model = model
        inner = make_optimizer(model, ctx.config)
        groups = [{**group, "params": list(group["params"])} for group in inner.param_groups]
        self._engine = _start_engine(model, inner, ctx)
        self.forward = EngineModel(self._engine)
        self.optimizer = ZeroOptimizer(self._engine, inner, groups)

    @contextmanager
    def micro_batch(self, *, is_last: bool) -> Iterator[None]:
        """Tell DeepSpeed where a step ends; it reduces gradients in every backward pass."""
        self._engine.set_gradient_accumulation_boundary(is_last)
        yield

    def backward(self, loss: torch.Tensor) -> None:
        """Add the loss's gradients to this process's share of those of the step."""
        self._engine.backward(loss, scale_wrt_gas=False)

    def clip(self, limit: float) -> torch.Tensor:
        """Return the norm of the step's gradient. DeepSpeed limits it and updates the weights in one call, which leaves
        them as they are if the norm is not finite; `limit` is in its config.
        """
        for group, own in zip(self._engine.optimizer.param_groups, self.optimizer.param_groups, strict=True):
            group["lr"] = own["lr"]
        self._engine.step()
        return torch.tensor(float(self._engine.get_global_grad_norm()))

    def step(self, scaler: torch.amp.GradScaler | None = None) -> None:
        """Do nothing: `clip` updated the weights."""

    def without_gradients(self) -> AbstractContextManager[Any]:
        """Enclose passes of validation and samples: weights that are gathered in them are trained on afterwards."""
        return torch.no_grad()

    def full_weights(self) -> dict[str, torch.Tensor] | None:
        """Gather the weights of stage 3, tensor by tensor; with stage 2 every process has all of them."""
        import deepspeed

        if self._engine.zero_optimization_stage() < 3:
            return None
        weights: dict[str, torch.Tensor] = {}
        copies: dict[int, torch.Tensor] = {}
        for name, tensor in self.model.state_dict(keep_vars=True).items():
            if id(tensor) not in copies:
                with deepspeed.zero.GatheredParameters([tensor], enabled=hasattr(tensor, "ds_id")):
                    copies[id(tensor)] = tensor.detach().cpu().clone() if self._engine.global_rank == 0 else tensor
            weights[name] = copies[id(tensor)]
        return weights


class EngineModel(torch.nn.Module):
    """DeepSpeed's engine with the attributes of its network, in place of its own such as `config`."""

    def __init__(self, engine: Any) -> None:
        super().__init__()
        self.engine = engine

    def forward(self, *args: Any, **more: Any) -> Any:
        """Run the network."""
        return self.engine(*args, **more)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            engine: Any = super().__getattr__("engine")
            return getattr(engine.module, name)


class ZeroOptimizer(torch.optim.Optimizer):
    """The optimizer as the loop and checkpoints see it: groups of the network's parameters, and a state per parameter.

    DeepSpeed gives `inner` flat shards instead of parameters.
    """

    def __init__(self, engine: Any, inner: torch.optim.Optimizer, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {})
        self.inner = inner
        self._engine = engine
        self._parameters = [parameter for group in self.param_groups for parameter in group["params"]]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Discard the gradients."""
        self._engine.optimizer.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state of every parameter, on the CPU. All ranks call this."""
        from deepspeed.utils import safe_get_full_optimizer_state

        self._link()
        flat, values = next(iter(self.inner.state.items()), (None, {}))
        state = {
            index: {
                name: (
                    safe_get_full_optimizer_state(parameter, name).cpu() if _is_sharded(value, flat) else _copy(value)
                )
                for name, value in values.items()
            }
            for index, parameter in enumerate(self._parameters)
            if values
        }
        return {"state": state, "param_groups": super().state_dict()["param_groups"]}

    def _link(self) -> None:
        """Link stage 2's parameters to their state, which DeepSpeed does for the first group of parameters alone."""
        from deepspeed.utils import lazy_init_hp_params_optimizer_state

        zero = self._engine.optimizer
        if self.inner.state and self._engine.zero_optimization_stage() < 3:
            for parameters, flat in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True):
                lazy_init_hp_params_optimizer_state(parameters, flat, self.inner.state)

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of every parameter, of which each process keeps its share."""
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        state: Mapping[int, Mapping[str, Any]] = state_dict["state"]
        if not state:
            return
        zero, is_whole = self._engine.optimizer, self._engine.zero_optimization_stage() < 3
        first, shape = next(iter(state.values())), whole_shape(self._parameters[0])
        for flat in zero.single_partition_of_fp32_groups if is_whole else zero.fp32_partitioned_groups_flat:
            self.inner.state[flat] = {
                name: torch.zeros_like(flat) if value.shape == shape else value.clone().to(flat.device)
                for name, value in first.items()
            }
        self._link()
        for index, values in state.items():
            parameter = self._parameters[index]
            for name, value in values.items():
                if value.shape != whole_shape(parameter):
                    continue
                if is_whole:
                    safe_set_full_optimizer_state(parameter, value, name)
                else:
                    safe_set_local_optimizer_state(parameter, _own_share(value, parameter, self._engine), name)


def _start_engine(model: torch.nn.Module, inner: torch.optim.Optimizer, ctx: TrainingContext) -> Any:
    if not is_gpu(ctx.device):
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed  # an extra, and slow to import

    deepspeed.utils.logger.setLevel(logging.WARNING)
    # at each call of a collective that it calls by a former name
    warnings.filterwarnings("ignore", message="`torch.distributed", category=FutureWarning)
    if not is_gpu(ctx.device):  # without this it compiles a kernel for gloo, for a minute
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_init_required=False)
    engine, *_ = deepspeed.initialize(model=model, optimizer=inner, config=engine_config(model, ctx))
    return engine


def engine_config(model: Any, ctx: TrainingContext) -> dict[str, object]:
    """Return DeepSpeed's config of a run."""
    config = ctx.config
    fitting = min(config.micro_batch, ctx.max_micro_batch or config.micro_batch)
    stage = {"zero2": 2, "zero3": 3}[config.devices.sharding]
    zero: dict[str, object] = {
        "stage": stage,
        "reduce_bucket_size": BUCKET_ELEMENTS,
        "allgather_bucket_size": BUCKET_ELEMENTS,
    }
    if stage == 3:  # norms stay whole: gathering them costs more than they take
        zero["stage3_param_persistence_threshold"] = 10 * int(model.config.hidden_size)
        zero["stage3_prefetch_bucket_size"] = BUCKET_ELEMENTS
    if config.devices.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": is_gpu(ctx.device)}
    return {
        "train_micro_batch_size_per_gpu": fitting,
        "gradient_accumulation_steps": config.grad_accum_steps * -(-config.micro_batch // fitting),
        "gradient_clipping": config.grad_clip,
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        # autocast as in any other run; communication stays fp32
        "torch_autocast": {
            "enabled": ctx.autocast is not None,
            "dtype": str(ctx.autocast or torch.bfloat16).removeprefix("torch."),
            "lower_precision_safe_modules": [],
        },
    }


def _is_sharded(value: object, flat: torch.Tensor | None) -> bool:
    return isinstance(value, torch.Tensor) and flat is not None and value.shape == flat.shape


def _copy(value: Any) -> Any:
    return value.detach().cpu().clone() if isinstance(value, torch.Tensor) else value


def _own_share(value: torch.Tensor, parameter: Any, engine: Any) -> torch.Tensor:
    """Return this process's share of a whole tensor, padded as DeepSpeed pads the last one."""
    size = parameter.ds_tensor.numel()
    padded = torch.nn.functional.pad(value.flatten(), (0, size * engine.world_size - value.numel()))
    return padded.narrow(0, size * engine.global_rank, size)
