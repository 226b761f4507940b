"""Exponential moving average of the weights, which is validated, sampled and saved instead of them.

The decay at a step is at most (1 + step) / (10 + step), as in TensorFlow's ExponentialMovingAverage, so that the
average soon forgets the initial weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from jobs.training.distributed import shard_like


class Ema:
    """The average of a network's trained parameters. Construct it with the network, before the first update."""

    def __init__(self, model: torch.nn.Module, *, decay: float) -> None:
        self._decay = decay
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._other = [parameter.detach().clone() for parameter in self._trained]
        self._is_swapped = False

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average with the weights after `step`."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._other, list(self._trained), 1.0 - decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Put the average into the network, and the trained weights back at the end."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, other in zip(self._trained, self._other, strict=True):
            initial = parameter.detach().clone()
            parameter.copy_(other)
            other.copy_(initial)
        self._is_swapped = not self._is_swapped

    def state_dict(self) -> dict[str, object]:
        """Return the weights in training; the checkpoint's own file holds the average."""
        return {"trained": list(self._other if self._is_swapped else self._trained)}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put the weights in training into a network loaded from a checkpoint, which holds the average."""
        for parameter, value in zip(self._trained, state_dict["trained"], strict=True):
            parameter.copy_(shard_like(value, parameter))


def named_states(ema: Ema | None, scaler: torch.amp.GradScaler | None = None) -> dict[str, Any]:
    """Return the objects with a state of their own, by their names in a saved state; absent ones are left out."""
    return {name: stateful for name, stateful in (("average", ema), ("scaler", scaler)) if stateful is not None}
