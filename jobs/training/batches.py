"""What a step is trained on. The order is a pure function of (seed, step), so a run resumes with no data cursor to restore."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

IGNORE = -100
"""Target of a token that is not trained on."""


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass: `inputs` and `targets` of shape (sequences, tokens), already shifted by one.

    `trained` counts the targets that are not IGNORE. `columns` are the positions that have one in any row, None for all.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    trained: int
    columns: torch.Tensor | None = None

    @property
    def units(self) -> int:
        """What the loss is averaged over."""
        return self.trained

    def to(self, device: torch.device) -> MicroBatch:
        """Return the batch on a device."""
        if device.type == "cpu":
            return self
        columns = None if self.columns is None else self.columns.to(device, non_blocking=True)
        return MicroBatch(self.inputs.to(device, non_blocking=True), self.targets.to(device, non_blocking=True), self.trained, columns)


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
