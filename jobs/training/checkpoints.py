"""A run's checkpoints on disk: save, find the newest, prune, check free space; and the training state in them.

The state is what resuming needs besides weights: optimizer state, random state of every library, counters, and other
objects with a `state_dict` (the average of the weights, the gradient scaler). These are trees of dictionaries and
lists, whose tensors are saved in one safetensors file and the rest as JSON. No pickle.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from backend.domain.estimates.optimizer_state import checkpoint_size
from backend.domain.jobs.events import CheckpointEvent, CheckpointRemovedEvent
from backend.domain.jobs.payloads import TrainingPayload, TrainPayload
from backend.domain.jobs.states import StopRequest
from backend.domain.training.config import RunConfig
from backend.domain.training.holds import choose_removed, hold_of, mark_of_use
from backend.domain.wording import format_bytes
from backend.errors import InvalidInput, JobFailed
from jobs.modeling.checkpoints import STATE_FOLDER, is_adapter, is_complete, save_checkpoint
from jobs.modeling.devices import gpu_functions, visible_gpu
from jobs.modeling.loglikelihood import longest_input
from jobs.reporter import JobSpec, Reporter
from jobs.training.distributed import ProcessGroup, gather_tensor, shard_like, whole_shape

DISK_MARGIN, DISK_SPARE_BYTES = 1.05, 16_000_000
"""Free space required beyond a checkpoint's bytes, for errors of the estimate, logs and metrics."""
DISK_CHECK_EVERY_S = 5.0


class CheckpointStore:
    """The folder `<run_folder>/checkpoints`, one `step-000100` each."""

    def __init__(
        self,
        spec: JobSpec[TrainingPayload],
        reporter: Reporter,
        *,
        folder: Path,
        keep_last: int,
        lineage: Mapping[str, object],
    ) -> None:
        self.folder = folder
        self._spec, self._reporter = spec, reporter
        self._keep_last, self._lineage = keep_last, lineage
        self._bytes = 0
        self._checked_at, self._is_full = 0.0, False

    def place(self, step: int) -> Path:
        """Return the folder of a step's checkpoint."""
        return self.folder / f"step-{step:06d}"

    def steps(self) -> list[int]:
        """Return the steps of complete checkpoints, ascending."""
        complete = [
            path
            for path in self.folder.glob("step-*")
            if path.is_dir() and path.name[5:].isdigit() and is_complete(path)
        ]
        return sorted(int(path.name[5:]) for path in complete)

    def newest(self) -> Path | None:
        """Return the newest complete checkpoint with training state, if any; delete partial ones left by a crash."""
        for leftover in [*self.folder.glob(".step-*.partial"), *self.folder.glob(".step-*.replaced")]:
            shutil.rmtree(leftover, ignore_errors=True)
        steps = self.resumable()
        return self.place(steps[-1]) if steps else None

    def resumable(self) -> list[int]:
        """Return the steps of complete checkpoints with their training state, ascending."""
        return [step for step in self.steps() if (self.place(step) / STATE_FOLDER / "counters.json").is_file()]

    def save(
        self,
        step: int,
        *,
        model: torch.nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        metrics: dict[str, float],
        final: bool = False,
        best_step: int | None = None,
        weights: dict[str, torch.Tensor] | None = None,
        write_more: Callable[[Path], None] | None = None,
    ) -> str:
        """Publish a step's checkpoint, report it, and prune older ones; return its folder relative to the artifacts.

        `weights` are saved instead of the network's own, for a sharded network. Raises JobFailed if the disk is full,
        with earlier checkpoints intact.
        """
        self._make_room(step, best_step=best_step)
        place = self.place(step)
        meta = {**self._lineage, "step": step, "metrics": metrics}
        save_checkpoint(place, model=model, tokenizer=tokenizer, meta=meta, weights=weights, write_more=write_more)
        if isinstance(self._spec.payload, TrainPayload) and self._spec.payload.holds_checkpoints:
            hold_of(place).touch()
        size = self._bytes = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
        relative = self._spec.relative(place)
        config: Any = model.config
        self._reporter.emit(
            CheckpointEvent(
                step=step,
                folder=relative,
                metrics=dict(metrics),
                final=final,
                bytes=size,
                adapter=is_adapter(place),
                family=config.model_type,
                parameters=sum(whole_shape(parameter).numel() for parameter in model.parameters()),
                facts={"context": longest_input(model), "vocab_size": config.vocab_size},
            )
        )
        self._prune(self._keep_last, best_step=best_step)
        return relative

    def should_stop(self) -> StopRequest | None:
        """Return a stop request if the disk may hold no more. Cheap: the disk is checked every few seconds."""
        now = time.monotonic()
        if self._bytes and now - self._checked_at >= DISK_CHECK_EVERY_S:
            self._checked_at = now
            self._is_full = self._free_bytes() < self._needed_bytes()
        return "stop_and_save" if self._is_full else None

    def raise_if_full(self, step: int) -> None:
        """Raise JobFailed if the run stopped at a step, and saved it, because the disk is nearly full."""
        if self._is_full:
            raise JobFailed(
                f"The disk has {format_bytes(self._free_bytes())} free, and a checkpoint takes"
                f" {format_bytes(self._bytes)}, so the run stopped at step {step}, which is saved.",
                remedy="Free space, then resume.",
                field="keep_last",
            )

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self.folder).free

    def _needed_bytes(self) -> int:
        """Return the free bytes required before another checkpoint is written."""
        return int(self._bytes * DISK_MARGIN) + DISK_SPARE_BYTES

    def _make_room(self, step: int, *, best_step: int | None) -> None:
        """If the disk is too full for another checkpoint, prune before saving."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._free_bytes() >= self._needed_bytes() or step in self.steps():
            return
        self._prune(max(1, self._keep_last - 1), best_step=best_step, with_holds=False)
        if self._free_bytes() < self._bytes:
            raise JobFailed(
                f"The disk has {format_bytes(self._free_bytes())} free, and the checkpoint of step {step} needs"
                f" {format_bytes(self._bytes)}.",
                remedy="Free space, then resume: earlier checkpoints are intact.",
                field="keep_last",
            )

    def _prune(self, keep_last: int, *, best_step: int | None, with_holds: bool = True) -> None:
        """Delete all but the best, the last, the held checkpoints and those in use, and report each deletion. Where the
        disk is full no hold counts.
        """
        steps = self.steps()
        held = [step for step in steps if with_holds and hold_of(self.place(step)).exists()]
        used = [step for step in steps if mark_of_use(self.place(step)).exists()]
        for step in choose_removed(steps, keep_last=keep_last, best=best_step, held=held, used=used):
            relative = self._spec.relative(self.place(step))
            shutil.rmtree(self.place(step))
            hold_of(self.place(step)).unlink(missing_ok=True)
            self._reporter.emit(CheckpointRemovedEvent(step=step, folder=relative))

    def check_disk(self, *, checkpoint_bytes: int, max_steps: int, checkpoint_every: int) -> None:
        """Raise JobFailed unless the disk has room for all checkpoints kept at once."""
        planned = -(-max_steps // checkpoint_every)
        num_at_once = min(planned, self._keep_last + 1) + 1  # the best, the last ones, and the one being written
        num_new = max(1, num_at_once - len(self.steps()))
        self._bytes = checkpoint_bytes
        needed = checkpoint_bytes * num_new + self._needed_bytes() - checkpoint_bytes
        self.folder.mkdir(parents=True, exist_ok=True)
        free = self._free_bytes()
        if free < needed:
            raise JobFailed(
                f"The disk has {format_bytes(free)} free, and the run's checkpoints need {format_bytes(needed)}"
                f" ({num_new} of {format_bytes(checkpoint_bytes)}).",
                remedy="Free space, lower keep_last, or train adapters (method lora).",
                field="keep_last",
            )


def estimate_checkpoint_bytes(model: torch.nn.Module, config: RunConfig, *, adapter: bool) -> int:
    """Estimate the bytes of a checkpoint with its training state."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    stored = trained if adapter else sum(parameter.numel() for parameter in model.parameters())
    return checkpoint_size(config, stored=stored, trained=trained)


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
