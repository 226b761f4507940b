"""What a step is trained on. The order is a pure function of (seed, step), so a run resumes with no data cursor to restore."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

IGNORE = -100
"""Target of a token that is not trained on."""


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
        """Return the batch on a device."""
        if device.type == "cpu":
            return self
        moved = {
            name: None if value is None else value.to(device, non_blocking=True)
            for name, value in (
                ("inputs", self.inputs),
                ("targets", self.targets),
                ("columns", self.columns),
                ("positions", self.positions),
            )
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
