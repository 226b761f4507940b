"""The training state that resuming needs besides weights, as safetensors and JSON. No pickle.

Optimizer state, random state of every library, counters, and other objects with a `state_dict` (the average of the
weights, the gradient scaler): trees of dictionaries and lists, whose tensors are saved in one safetensors file and the
rest as JSON.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from backend.errors import InvalidInput
from jobs.modeling.checkpoints import STATE_FOLDER
from jobs.modeling.devices import gpu_functions, visible_gpu
from jobs.training.distributed.process_group import ProcessGroup, gather_tensor, shard_like, whole_shape

TENSORS, TREE, COUNTERS = "state.safetensors", "state.json", "counters.json"


class Stateful(Protocol):
    """An object whose state a resumed run restores."""

    def state_dict(self) -> dict[str, object]:
        """Return the state: dictionaries (keys strings or integers), lists, tensors, numbers, strings, None."""

    def load_state_dict(self, state_dict: Mapping[str, object]) -> Any:
        """Restore a state."""


@dataclass(frozen=True)
class Counters:
    """Progress of a run: updates done, the best val_loss of a checkpoint with its step, and the state of early
    stopping.

    `lowest_val_loss` is the lowest of all measurements, `stale` the number of measurements since; `ended` is the
    max_steps of a run that stopped early. `sequences` are those of a step on all devices, `measured` the items of the
    val split that are validated on. `micro_batch` is None unless memory was too small for the config's. `machine`
    describes what rounding depends on, `data_order` is that of `jobs.batches.base`. `held_in` is the type of a frozen
    base, None for float32. `tokens` are those that a run whose objective `counts_tokens` has read, None if they
    were not counted from its start. The names of the fields are those in the checkpoint's file.
    """

    step: int = 0
    best_step: int | None = None
    best_val_loss: float | None = None
    lowest_val_loss: float | None = None
    stale: int = 0
    ended: int | None = None
    sequences: int | None = None
    measured: int | None = None
    micro_batch: int | None = None
    machine: str | None = None
    data_order: int | None = None
    held_in: str | None = None
    tokens: int | None = None


def gather_state(optimizer: torch.optim.Optimizer, states: Mapping[str, Stateful] | None = None) -> dict[str, Any]:
    """Return the training state, unsharded. All ranks call this."""
    tree = {
        "optimizer": optimizer.state_dict()["state"],
        **{name: stateful.state_dict() for name, stateful in (states or {}).items()},
    }
    tensors: dict[str, torch.Tensor] = {}
    paths: dict[Any, str] = {}
    encoded = {name: _encode(value, name, tensors, paths) for name, value in tree.items()}
    return {"optimizer": _class_name(optimizer), "shapes": _shapes(optimizer), "parts": encoded, "tensors": tensors}


def save_state(
    folder: Path, *, gathered: dict[str, Any], counters: Counters, randomness: Sequence[RandomState] = ()
) -> None:
    """Write the result of `gather_state` to a checkpoint's folder, with the random state of each rank, by default this
    process's.
    """
    target = folder / STATE_FOLDER
    target.mkdir()
    tensors = dict(gathered["tensors"])
    randoms = _encode([each.state_dict() for each in randomness or [RandomState.capture()]], "random", tensors, {})
    save_file(tensors, target / TENSORS)
    tree = {**{name: value for name, value in gathered.items() if name != "tensors"}, "random": randoms}
    (target / TREE).write_text(json.dumps(tree) + "\n")
    (target / COUNTERS).write_text(json.dumps(asdict(counters)) + "\n")


def load_state(
    folder: Path,
    *,
    optimizer: torch.optim.Optimizer,
    states: Mapping[str, Stateful] | None = None,
    process_group: ProcessGroup | None = None,
    seed: int = 0,
) -> Counters:
    """Restore the training state from a checkpoint's folder; return its counters. A state that was not saved is
    unchanged. If another number of ranks saved it, random numbers are seeded with the run's `seed`, the rank and the
    step. Raises InvalidInput if the state belongs to another network or optimizer.
    """
    counters = read_counters(folder)
    try:
        saved = json.loads((folder / STATE_FOLDER / TREE).read_text())
    except FileNotFoundError:
        raise _mismatch(folder, "was written by an older version") from None
    if saved["shapes"] != _shapes(optimizer):
        raise _mismatch(folder, "belongs to another model")
    if (saved_class := saved["optimizer"]) != _class_name(optimizer):
        raise _mismatch(folder, f"is that of {saved_class}, and the run's optimizer is {_class_name(optimizer)}")
    tensors = load_file(folder / STATE_FOLDER / TENSORS)
    tree = {name: _decode(value, tensors) for name, value in saved["parts"].items()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        index: {
            name: shard_like(value, parameters[index]) if isinstance(value, torch.Tensor) else value
            for name, value in values.items()
        }
        for index, values in tree.pop("optimizer").items()
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for name, stateful in (states or {}).items():
        if name in tree:
            stateful.load_state_dict(tree[name])
    randoms, group = _decode(saved["random"], tensors), process_group or ProcessGroup()
    randoms = randoms if isinstance(randoms, list) else [randoms]  # older checkpoints hold that of a single process
    if len(randoms) == group.count:
        RandomState.of(randoms[group.rank]).restore()
    else:
        seed_everything(int(np.random.SeedSequence((seed, group.rank, counters.step)).generate_state(1)[0]))
    return counters


def read_counters(folder: Path) -> Counters:
    """Return the counters of a checkpoint that has a training state."""
    return Counters(**json.loads((folder / STATE_FOLDER / COUNTERS).read_text()))


def seed_everything(seed: int) -> None:
    """Seed the random numbers of torch, NumPy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@dataclass(frozen=True)
class RandomState:
    """The random state of torch (CPU, and GPU), NumPy and Python. Captured before each step in microseconds."""

    torch_cpu: torch.Tensor
    torch_gpu: torch.Tensor | None
    numpy: Any
    python: Any

    @classmethod
    def capture(cls) -> RandomState:
        """Return the current state."""
        device = visible_gpu()
        gpu = gpu_functions(device).get_rng_state() if device is not None else None
        return cls(torch.get_rng_state(), gpu, np.random.get_state(legacy=True), random.getstate())

    def restore(self) -> None:
        """Continue from this state."""
        torch.set_rng_state(self.torch_cpu)
        device = visible_gpu()
        if self.torch_gpu is not None and device is not None:
            gpu_functions(device).set_rng_state(self.torch_gpu)
        np.random.set_state(self.numpy)
        random.setstate(self.python)

    def state_dict(self) -> dict[str, object]:
        """Return the state as a tree that `save_state` can write."""
        name, keys, *numbers = self.numpy
        version, internal, spare = self.python
        return {
            "torch": self.torch_cpu,
            "cuda": self.torch_gpu,
            "numpy": [str(name), torch.from_numpy(np.asarray(keys, dtype=np.int64)), *numbers],
            "python": [version, torch.tensor(internal), spare],
        }

    @classmethod
    def of(cls, tree: dict[str, Any]) -> RandomState:
        """Rebuild the state from a `state_dict`."""
        name, keys, *numbers = tree["numpy"]
        version, internal, spare = tree["python"]
        numpy_state = (name, keys.numpy().astype(np.uint32), *numbers)
        return cls(tree["torch"], tree["cuda"], numpy_state, (version, tuple(internal.tolist()), spare))


def _encode(value: Any, path: str, tensors: dict[str, torch.Tensor], paths: dict[Any, str]) -> Any:
    """Return a tree as JSON holds it; its tensors go into `tensors`, each under its path."""
    if isinstance(value, torch.Tensor):
        tensor = gather_tensor(value)
        first_path = paths.setdefault((tensor.data_ptr(), tensor.shape, tensor.dtype), path) if tensor.numel() else path
        if first_path == path:  # parameters may share a small table, and safetensors stores a tensor once
            tensors[path] = tensor
        return {"tensor": first_path}
    if isinstance(value, Mapping):
        return {
            "keys": list(value),
            "values": [_encode(item, f"{path}.{key}", tensors, paths) for key, item in value.items()],
        }
    if isinstance(value, (list, tuple)):
        return [_encode(item, f"{path}.{index}", tensors, paths) for index, item in enumerate(value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{path} is a {type(value).__name__}, which a training state does not support")


def _decode(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    return {key: _decode(item, tensors) for key, item in zip(value["keys"], value["values"], strict=True)}


def _class_name(optimizer: torch.optim.Optimizer) -> str:
    return type(getattr(optimizer, "inner", optimizer)).__name__  # DeepSpeed's stands around the run's own


def _shapes(optimizer: torch.optim.Optimizer) -> list[list[int]]:
    return [list(whole_shape(parameter)) for group in optimizer.param_groups for parameter in group["params"]]


def _mismatch(folder: Path, why: str) -> InvalidInput:
    return InvalidInput(
        f"The training state in {folder.name} {why}.", remedy="Start a new run from this checkpoint as its base."
    )
