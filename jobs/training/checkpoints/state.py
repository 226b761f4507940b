"""What resuming needs besides weights, as safetensors and JSON. No pickle.

The optimizer's state, the random state of every library, counters, and whatever else has a `state_dict` (an average of the weights, a
scaler of gradients): trees of dictionaries and lists, whose tensors go into one safetensors file and the rest into JSON.
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
from jobs.training.distributed.process_group import Team, like, whole

TENSORS, TREE, COUNTERS = "state.safetensors", "state.json", "counters.json"


class Stateful(Protocol):
    """Whatever has to be as it was when a run goes on."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state: dictionaries (keys strings or whole numbers), lists, tensors, numbers, strings, None."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Take over a state."""


@dataclass(frozen=True)
class Counters:
    """How far a run is: updates done; the best val_loss of a checkpoint, with its step; and what early stopping goes by.

    `lowest_val_loss` is the lowest of all measurements, `stale` how many came since; `ended` is the max_steps of a
    run that stopped early. `sequences` are those of a step, on all devices;
    `measured` the items that val_loss is measured on.
    `micro_batch` is None unless memory was too small for the config's. `machine` is what rounding depends on.
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


def gather_state(optimizer: torch.optim.Optimizer, parts: Mapping[str, Stateful] | None = None) -> dict[str, Any]:
    """Return the training state, put together where several processes hold parts of it. All of them call this."""
    tree = {"optimizer": optimizer.state_dict()["state"], **{name: part.state_dict() for name, part in (parts or {}).items()}}
    tensors: dict[str, torch.Tensor] = {}
    places: dict[Any, str] = {}
    encoded = {name: _encode(value, name, tensors, places) for name, value in tree.items()}
    return {"optimizer": _kind(optimizer), "shapes": _shapes(optimizer), "parts": encoded, "tensors": tensors}


def save_state(folder: Path, *, gathered: dict[str, Any], counters: Counters, randomness: Sequence[RandomState] = ()) -> None:
    """Write what `gather_state` returned into a checkpoint's folder, with each process's random state: by default this one's alone."""
    target = folder / STATE_FOLDER
    target.mkdir()
    tensors = dict(gathered["tensors"])
    randoms = _encode([each.state_dict() for each in randomness or [RandomState.take()]], "random", tensors, {})
    save_file(tensors, target / TENSORS)
    tree = {**{name: value for name, value in gathered.items() if name != "tensors"}, "random": randoms}
    (target / TREE).write_text(json.dumps(tree) + "\n")
    (target / COUNTERS).write_text(json.dumps(asdict(counters)) + "\n")


def load_state(
    folder: Path, *, optimizer: torch.optim.Optimizer, parts: Mapping[str, Stateful] | None = None, team: Team | None = None, seed: int = 0
) -> Counters:
    """Restore the training state from a checkpoint's folder; return its counters. A part that was not saved stays as it is.

    Saved by another number of processes, random numbers begin anew with the run's `seed`, the rank and the step. Raises InvalidInput if the state belongs to another network or optimizer.
    """
    counters = read_counters(folder)
    try:
        saved = json.loads((folder / STATE_FOLDER / TREE).read_text())
    except FileNotFoundError:
        raise _other(folder, "was written by an older version") from None
    if saved["shapes"] != _shapes(optimizer):
        raise _other(folder, "belongs to another network")
    if saved["optimizer"] != _kind(optimizer):
        raise _other(folder, f"is that of {saved['optimizer']}, and the run's optimizer is {_kind(optimizer)}")
    tensors = load_file(folder / STATE_FOLDER / TENSORS)
    tree = {name: _decode(value, tensors) for name, value in saved["parts"].items()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        index: {name: like(value, parameters[index]) if isinstance(value, torch.Tensor) else value for name, value in values.items()}
        for index, values in tree.pop("optimizer").items()
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for name, part in (parts or {}).items():
        if name in tree:
            part.load_state_dict(tree[name])
    randoms, team = _decode(saved["random"], tensors), team or Team()
    randoms = randoms if isinstance(randoms, list) else [randoms]  # of one process alone, in older checkpoints
    if len(randoms) == team.count:
        RandomState.of(randoms[team.rank]).restore()
    else:
        seed_everything(int(np.random.SeedSequence((seed, team.rank, counters.step)).generate_state(1)[0]))
    return counters


def read_counters(folder: Path) -> Counters:
    """Return the counters of a checkpoint that has a training state."""
    return Counters(**json.loads((folder / STATE_FOLDER / COUNTERS).read_text()))


def seed_everything(seed: int) -> None:
    """Start the random numbers of torch, NumPy and Python anew."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@dataclass(frozen=True)
class RandomState:
    """Where the random numbers of torch (CPU, and the GPU in use), NumPy and Python are. Taken before every step, so it costs microseconds."""

    torch_cpu: torch.Tensor
    torch_cuda: torch.Tensor | None
    numpy: Any
    python: Any

    @classmethod
    def take(cls) -> RandomState:
        """Return the present state."""
        cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
        return cls(torch.get_rng_state(), cuda, np.random.get_state(legacy=True), random.getstate())

    def restore(self) -> None:
        """Go on from here."""
        torch.set_rng_state(self.torch_cpu)
        if self.torch_cuda is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.torch_cuda)
        np.random.set_state(self.numpy)
        random.setstate(self.python)

    def state_dict(self) -> dict[str, Any]:
        """Return it as a tree that can be saved."""
        name, keys, *numbers = self.numpy
        version, internal, spare = self.python
        return {
            "torch": self.torch_cpu,
            "cuda": self.torch_cuda,
            "numpy": [str(name), torch.from_numpy(np.asarray(keys, dtype=np.int64)), *numbers],
            "python": [version, torch.tensor(internal), spare],
        }

    @classmethod
    def of(cls, tree: dict[str, Any]) -> RandomState:
        """Return what `state_dict` returned, read again."""
        name, keys, *numbers = tree["numpy"]
        version, internal, spare = tree["python"]
        numpy_state = (name, keys.numpy().astype(np.uint32), *numbers)
        return cls(tree["torch"], tree["cuda"], numpy_state, (version, tuple(internal.tolist()), spare))


def _encode(value: Any, path: str, tensors: dict[str, torch.Tensor], places: dict[Any, str]) -> Any:
    """Return a tree as JSON holds it; its tensors go into `tensors`, each under its path."""
    if isinstance(value, torch.Tensor):
        held = whole(value)
        same = places.setdefault((held.data_ptr(), held.shape, held.dtype), path) if held.numel() else path
        if same == path:  # small tables may be those of all parameters, and safetensors takes a tensor once
            tensors[path] = held
        return {"tensor": same}
    if isinstance(value, Mapping):
        return {"keys": list(value), "values": [_encode(item, f"{path}.{key}", tensors, places) for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_encode(item, f"{path}.{index}", tensors, places) for index, item in enumerate(value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{path} is a {type(value).__name__}, which a training state can't hold")


def _decode(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    return {key: _decode(item, tensors) for key, item in zip(value["keys"], value["values"], strict=True)}


def _kind(optimizer: torch.optim.Optimizer) -> str:
    return type(optimizer).__name__


def _shapes(optimizer: torch.optim.Optimizer) -> list[list[int]]:
    return [list(parameter.shape) for group in optimizer.param_groups for parameter in group["params"]]


def _other(folder: Path, why: str) -> InvalidInput:
    return InvalidInput(f"The training state in {folder.name} {why}.", remedy="Start a new run from this checkpoint as its base.")
