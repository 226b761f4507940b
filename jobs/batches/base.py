"""What a step is trained on. The order is a pure function of (seed, step), so a run resumes with no data cursor to restore."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

IGNORE = -100
"""Target of a token that is not trained on."""
MOST_NAMED = 16


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass: `inputs` and `targets` of shape (sequences, tokens), already shifted by one.

    `trained` counts the targets that are not IGNORE. `columns` are the positions that have one in any row, None for all. Rows that
    share a sequence have `positions`, which begin at 0 with each row, and `row_ends`, which stays on the CPU (see `row_attention`).
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    trained: int
    columns: torch.Tensor | None = None
    positions: torch.Tensor | None = None
    row_ends: torch.Tensor | None = None

    @property
    def units(self) -> int:
        """What the loss is averaged over."""
        return self.trained

    @property
    def arguments(self) -> dict[str, Any]:
        """What the network is called with."""
        packed = {"position_ids": self.positions, "row_ends": self.row_ends} if self.row_ends is not None else {}
        return {"input_ids": self.inputs, "use_cache": False, **packed}

    def to(self, device: torch.device) -> MicroBatch:
        """Return the batch on a device. To a GPU it is copied from pinned memory, so that nothing waits for the copy."""
        if device.type == "cpu":
            return self
        pinned = device.type == "cuda"
        moved = {
            name: (held.pin_memory() if pinned else held).to(device, non_blocking=True)
            for name in ("inputs", "targets", "columns", "positions")
            if (held := getattr(self, name)) is not None
        }
        return replace(self, **moved)


class Batches(Protocol):
    """A source of training and validation data, of the kind that the objective's lesson takes."""

    def at_step(self, step: int) -> list[Any]:
        """Return the micro-batches of update `step` (the first is 1)."""

    def validation(self) -> list[Any]:
        """Return the fixed batches that val_loss is measured on; empty without a val split."""


class EpochOrder:
    """Every item once an epoch, shuffled anew each epoch."""

    def __init__(self, size: int, *, seed: int) -> None:
        self.size = size
        self._seed = seed
        self._cached: dict[int, npt.NDArray[np.int64]] = {}

    def take(self, first: int, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the epochs and items of draws `first` to `first + count - 1`."""
        draws = np.arange(first, first + count, dtype=np.int64)
        epochs, places = np.divmod(draws, self.size)
        items = np.array([self._permutation(int(epoch))[place] for epoch, place in zip(epochs, places, strict=True)], dtype=np.int64)
        return epochs, items

    def _permutation(self, epoch: int) -> npt.NDArray[np.int64]:
        if epoch not in self._cached:
            while len(self._cached) > 1:
                self._cached.pop(next(iter(self._cached)))
            self._cached[epoch] = np.random.default_rng((self._seed, epoch)).permutation(self.size)
        return self._cached[epoch]


class StepBatches:
    """What batches of every objective share: which items a step sees, and how they are cut into micro-batches.

    The items of a step do not depend on the cut, so a smaller micro-batch (`cut_to`) leaves the loss the same function of the data.
    `items` is what they are called when one of them is at fault.
    """

    items = "rows of the train split (the first is 1)"

    def __init__(self, size: int, *, micro_batch: int, grad_accum_steps: int, seed: int) -> None:
        self._order = EpochOrder(size, seed=seed)
        self.micro_batch, self.per_step = micro_batch, micro_batch * grad_accum_steps

    def steps_for(self, epochs: float) -> int:
        """Return how many steps see every item so many times, rounded up."""
        return max(1, math.ceil(epochs * self._order.size / self.per_step - 1e-9))

    def cut_to(self, micro_batch: int) -> None:
        """Cut steps into micro-batches of at most so many items from now on; whoever keeps validation batches cuts those anew."""
        self.micro_batch = micro_batch

    def prepare(self, step: int) -> None:
        """Get a step's batches ready while the device is at work on the one before it. Nothing, unless it costs time."""

    def draw(self, step: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the epochs and the items of update `step` (the first is 1)."""
        return self._order.take((step - 1) * self.per_step, self.per_step)

    def cut(self, items: Any) -> list[Any]:
        """Return a sequence of items (a list, an array) cut into micro-batches."""
        return [items[at : at + self.micro_batch] for at in range(0, len(items), self.micro_batch)]

    def names_at(self, step: int) -> list[list[int]]:
        """Return the numbers that each item of a step goes by, in the order in which micro-batches hold them: rows, or places in a text."""
        return [[int(item) + 1] for item in self.draw(step)[1]]

    def describe(self, step: int, index: int) -> str:
        """Return what micro-batch `index` (from 0) of a step holds, in words."""
        names = [name for item in self.cut(self.names_at(step))[index] for name in item]
        shown = ", ".join(f"{name:,}" for name in names[:MOST_NAMED])
        more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
        return f"{self.items} {shown}{more}"
