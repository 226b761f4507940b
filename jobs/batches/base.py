"""Batches of training data. Their order is a pure function of (seed, step), so resuming needs no data cursor."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from backend.domain.wording import list_first
from jobs.modeling.devices import is_gpu

IGNORE = -100
"""Target of a token without loss."""
MAX_LABELS = 16
DATA_ORDER = 2
"""Number of the rule by which rows come into steps, raised with each change. Checkpoints hold it."""


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass: `inputs` and `targets` of shape (sequences, tokens), already shifted by one.

    `trained` counts the targets that are not IGNORE. `columns` are the positions that have a target in any row, None
    for all. Packed rows have `positions`, which restart at 0 with each row, and `row_ends`, which stays on the CPU (see
    `packed_attention`).
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
        if not is_gpu(device):
            return self
        moved = {
            name: tensor.pin_memory().to(device, non_blocking=True)
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

    A step takes `items_per_step` items on all devices together, `micro_batch` of them per forward pass. Validation uses
    the first `val_items` of the val split. `seed` fixes the order.
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
        items = np.array(
            [self._permutation(int(epoch))[place] for epoch, place in zip(epochs, places, strict=True)], dtype=np.int64
        )
        return epochs, items

    def items_in(self, epochs: float) -> float:
        """Return the number of items in a number of epochs."""
        return epochs * self.size

    def epochs_in(self, items: float) -> float:
        """Return the number of epochs in a number of items."""
        return items / self.size

    def _permutation(self, epoch: int) -> npt.NDArray[np.int64]:
        if epoch not in self._cached:
            while len(self._cached) > 1:
                self._cached.pop(next(iter(self._cached)))
            self._cached[epoch] = np.random.default_rng((self._seed, epoch)).permutation(self.size)
        return self._cached[epoch]


class PartwiseOrder:
    """A permutation of all items per epoch, of which the first epoch permutes one part after the other, so that it can
    begin before all items are known. With a single part it is `EpochOrder`.

    `size_of_part` returns the items of a part, None behind the last; `count` the items of each later epoch. Both may
    wait until they know.
    """

    def __init__(self, size_of_part: Callable[[int], int | None], count: Callable[[], int], *, seed: int) -> None:
        self._size_of_part, self._count, self._seed = size_of_part, count, seed
        self._ends = [0]  # of the parts that are known
        self._has_all_parts = False
        self._cached: dict[tuple[int, int], npt.NDArray[np.int64]] = {}

    @cached_property
    def size(self) -> int:
        """Items of each later epoch."""
        return self._count()

    @property
    def first_size(self) -> int:
        """Items of the first epoch."""
        while self._take_up_part():
            pass
        return self._ends[-1]

    def take(self, first: int, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the epochs and items of draws `first` to `first + count - 1`."""
        places = [self._place(draw) for draw in range(first, first + count)]
        return np.array([epoch for epoch, _ in places], dtype=np.int64), np.array(
            [item for _, item in places], dtype=np.int64
        )

    def part_of(self, item: int) -> tuple[int, int]:
        """Return the part of an item of the first epoch, and its place in it."""
        part = bisect_right(self._ends, item) - 1
        return part, item - self._ends[part]

    def items_in(self, epochs: float) -> float:
        """Return the number of items in a number of epochs."""
        return min(epochs, 1.0) * self.first_size + max(epochs - 1.0, 0.0) * self.size

    def epochs_in(self, items: float) -> float:
        """Return the number of epochs in a number of items."""
        return items / self.first_size if items <= self.first_size else 1.0 + (items - self.first_size) / self.size

    def _place(self, draw: int) -> tuple[int, int]:
        while draw >= self._ends[-1] and self._take_up_part():
            pass
        if draw < self._ends[-1]:
            part, place = self.part_of(draw)
            return 0, self._ends[part] + int(self._permutation(0, part, self._ends[part + 1] - self._ends[part])[place])
        epoch, place = divmod(draw - self._ends[-1], self.size)
        return epoch + 1, int(self._permutation(epoch + 1, 0, self.size)[place])

    def _take_up_part(self) -> bool:
        """Take up one more part of the first epoch, if there is one; return whether there was."""
        if not self._has_all_parts:
            size = self._size_of_part(len(self._ends) - 1)
            if size is not None:
                self._ends.append(self._ends[-1] + size)
                return True
            self._has_all_parts = True
        return False

    def _permutation(self, epoch: int, part: int, size: int) -> npt.NDArray[np.int64]:
        if (epoch, part) not in self._cached:
            while len(self._cached) > 1:
                self._cached.pop(next(iter(self._cached)))
            self._cached[epoch, part] = np.random.default_rng((self._seed, epoch, 0, part)).permutation(size)
        return self._cached[epoch, part]


class StepBatches:
    """Draw the items of a step and split them into micro-batches; shared by the batches of every objective.

    The items of a step do not depend on `micro_batch`, so lowering it (`reduce_micro_batch`) does not change the loss.
    `items` names the items in error messages.
    """

    items = "rows of the train split (the first is 1)"

    def __init__(self, items: int | PartwiseOrder, sizes: BatchSizes) -> None:
        self._order = EpochOrder(items, seed=sizes.seed) if isinstance(items, int) else items
        self.micro_batch, self.items_per_step = sizes.micro_batch, sizes.items_per_step

    def at_step(self, step: int) -> list[Any]:
        """Return the micro-batches of update `step` (the first is 1)."""
        raise NotImplementedError

    def validation(self) -> list[Any]:
        """Return the fixed validation batches; empty without a val split."""
        raise NotImplementedError

    @property
    def has_validation(self) -> bool:
        """Return whether there is a val split to validate on, without waiting for its tokens."""
        return bool(self.validation())

    def steps_for(self, epochs: float) -> int:
        """Return the number of steps in a number of epochs, rounded up."""
        return max(1, math.ceil(self._order.items_in(epochs) / self.items_per_step - 1e-9))

    def epochs_of(self, steps: int) -> float:
        """Return the number of epochs in a number of steps."""
        return self._order.epochs_in(steps * self.items_per_step)

    def progress(self) -> str:
        """Say how far the data is, if it is still being made; empty otherwise."""
        return ""

    def reduce_micro_batch(self, micro_batch: int) -> None:
        """Limit the micro-batches of later steps to this many items: larger ones did not fit into memory."""
        self.micro_batch = micro_batch

    def prefetch(self, step: int) -> None:
        """Build a step's batches while the device computes the step before it; a no-op unless that takes time."""

    def draw(self, step: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the epochs and the items of update `step` (the first is 1)."""
        return self._order.take((step - 1) * self.items_per_step, self.items_per_step)

    def split(self, items: Any) -> list[Any]:
        """Split a sequence of items (a list, an array) into micro-batches."""
        return [items[at : at + self.micro_batch] for at in range(0, len(items), self.micro_batch)]

    def labels_at(self, step: int) -> list[list[int]]:
        """Return the number of each item of a step, in its micro-batches' order: its row, or its position in a text."""
        return [[int(item) + 1] for item in self.draw(step)[1]]

    def describe(self, step: int, index: int) -> str:
        """Name the items of micro-batch `index` (from 0) of a step."""
        labels = [f"{label:,}" for item in self.split(self.labels_at(step))[index] for label in item]
        return f"{self.items} {list_first(labels, MAX_LABELS)}"
