"""What resuming needs besides weights: the optimizer's moments, random states and counters, as safetensors and JSON. No pickle."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from backend.errors import InvalidInput
from jobs.modeling.checkpoints import STATE_FOLDER


@dataclass(frozen=True)
class Counters:
    """How far a run is: updates done, and the best val_loss so far with its step."""

    step: int = 0
    best_step: int | None = None
    best_val_loss: float | None = None


def save_state(folder: Path, *, optimizer: torch.optim.Optimizer, counters: Counters) -> None:
    """Write the training state into a checkpoint's folder."""
    target = folder / STATE_FOLDER
    target.mkdir()
    tensors = {"rng.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            tensors[f"optimizer.{index}.{name}"] = value.detach().cpu().contiguous()
    save_file(tensors, target / "state.safetensors")
    (target / "counters.json").write_text(json.dumps(asdict(counters)) + "\n")


def load_state(folder: Path, *, optimizer: torch.optim.Optimizer) -> Counters:
    """Restore optimizer and random states from a checkpoint's folder; return its counters.

    Raises InvalidInput if the state belongs to another network.
    """
    counters = read_counters(folder)
    tensors = load_file(folder / STATE_FOLDER / "state.safetensors")
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = tensor
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {index: values["exp_avg"].shape for index, values in state.items()}
    if moments != {index: parameter.shape for index, parameter in enumerate(parameters)}:
        raise InvalidInput(
            f"The training state in {folder.name} belongs to another network.", remedy="Start a new run from this checkpoint as its base."
        )
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["rng.cpu"])
    if "rng.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["rng.cuda"])
    return counters


def read_counters(folder: Path) -> Counters:
    """Return the counters of a checkpoint that has a training state."""
    return Counters(**json.loads((folder / STATE_FOLDER / "counters.json").read_text()))
