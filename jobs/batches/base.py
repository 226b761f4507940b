"""Batches of training data. Their order is a pure function of (seed, step), so resuming needs no data cursor."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

IGNORE = -100
"""Target of a token without loss."""
MAX_LABELS = 16


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass: `inputs` and `targets` of shape (sequences, tokens), already shifted by one.

    `trained` counts the targets that are not IGNORE. `columns` are the positions that have a target in any row, None for all. Packed rows
    have `positions`, which restart at 0 with each row, and `row_ends`, which stays on the CPU (see `packed_attention`).
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    trained: int
    columns: torch.Tensor | None = None
    positions: torch.Tensor | None = None
    row_ends: torch.Tensor | None = None

    @property
    def units(self) -> int:
        """Number of terms that the loss is averaged over."""
        return self.trained

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the network's forward pass."""
        packed = {"position_ids": self.positions, "row_ends": self.row_ends} if self.row_ends is not None else {}
        return {"input_ids": self.inputs, "use_cache": False, **packed}

    def to(self, device: torch.device) -> MicroBatch:
        """Copy the batch to a device; to a GPU from pinned memory, without blocking."""
        if device.type == "cpu":
            return self
        is_pinned = device.type == "cuda"
        moved = {
            name: (tensor.pin_memory() if is_pinned else tensor).to(device, non_blocking=True)
            for name in ("inputs", "targets", "columns", "positions")
            if (tensor := getattr(self, name)) is not None
        }
        return replace(self, **moved)


class Batches(Protocol):
    """A source of training and validation batches, of the type that the objective takes."""

    def at_step(self, step: int) -> list[Any]:
        """Return the micro-batches of update `step` (the first is 1)."""

    def validation(self) -> list[Any]:
        """Return the fixed validation batches; empty without a val split."""


@dataclass(frozen=True)
class BatchSizes:
    """Sizes that the batches of every objective share.

    A step takes `items_per_step` items on all devices together, `micro_batch` of them per forward pass. Validation uses the first
    `val_items` of the val split. `seed` fixes the order.
    """

    micro_batch: int
    items_per_step: int
    val_items: int
    seed: int


class EpochOrder:
    """A permutation of all items per epoch, drawn from (seed, epoch)."""

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
    """Draw the items of a step and split them into micro-batches; shared by the batches of every objective.

    The items of a step do not depend on `micro_batch`, so lowering it (`reduce_micro_batch`) does not change the loss. `items` names the
    items in error messages.
    """

    items = "rows of the train split (the first is 1)"

    def __init__(self, num_items: int, sizes: BatchSizes) -> None:
        self._order = EpochOrder(num_items, seed=sizes.seed)
        self.micro_batch, self.items_per_step = sizes.micro_batch, sizes.items_per_step

    def at_step(self, step: int) -> list[Any]:
        """Return the micro-batches of update `step` (the first is 1)."""
        raise NotImplementedError

    def validation(self) -> list[Any]:
        """Return the fixed validation batches; empty without a val split."""
        raise NotImplementedError

    def steps_for(self, epochs: float) -> int:
        """Return the number of steps in a number of epochs, rounded up."""
        return max(1, math.ceil(epochs * self._order.size / self.items_per_step - 1e-9))

    def epochs_of(self, steps: int) -> float:
        """Return the number of epochs in a number of steps."""
        return steps * self.items_per_step / self._order.size

    def reduce_micro_batch(self, micro_batch: int) -> None:
        """Limit the micro-batches of later steps to this many items: larger ones did not fit into memory."""
        self.micro_batch = micro_batch

    def prefetch(self, step: int) -> None:
        """Build a step's batches while the device computes the step before it; a no-op unless building them takes time."""

    def draw(self, step: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the epochs and the items of update `step` (the first is 1)."""
        return self._order.take((step - 1) * self.items_per_step, self.items_per_step)

    def split(self, items: Any) -> list[Any]:
        """Split a sequence of items (a list, an array) into micro-batches."""
        return [items[at : at + self.micro_batch] for at in range(0, len(items), self.micro_batch)]

    def labels_at(self, step: int) -> list[list[int]]:
        """Return the number of each item of a step, in the order of its micro-batches: its row, or its position in a text."""
        return [[int(item) + 1] for item in self.draw(step)[1]]

    def describe(self, step: int, index: int) -> str:
        """Name the items of micro-batch `index` (from 0) of a step."""
        labels = [label for item in self.split(self.labels_at(step))[index] for label in item]
        shown = ", ".join(f"{label:,}" for label in labels[:MAX_LABELS])
        more = f" and {len(labels) - MAX_LABELS:,} more" if len(labels) > MAX_LABELS else ""
        return f"{self.items} {shown}{more}"
