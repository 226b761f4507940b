"""A moving average of the weights, kept beside those that are trained: it is what is validated, sampled and saved.

Its early part forgets the fresh weights sooner: the decay at a step is at most (1 + step) / (10 + step), as in TensorFlow's
ExponentialMovingAverage.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from jobs.training.distributed.process_group import like


class Average:
    """The average of a network's trained parameters. Made when the network is: fresh, or as its checkpoint holds it."""

    def __init__(self, model: torch.nn.Module, *, decay: float) -> None:
        self._decay = decay
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._beside = [parameter.detach().clone() for parameter in self._trained]
        self._exchanged = False

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after update `step`."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._beside, list(self._trained), 1.0 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the network hold the average for a while."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for parameter, beside in zip(self._trained, self._beside, strict=True):
            held = parameter.detach().clone()
            parameter.copy_(beside)
            beside.copy_(held)
        self._exchanged = not self._exchanged

    def state_dict(self) -> dict[str, Any]:
        """Return the weights that are trained: a checkpoint's own file holds the average."""
        return {"trained": list(self._beside if self._exchanged else self._trained)}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put the trained weights into a network that was loaded from a checkpoint, with the average in it."""
        for parameter, value in zip(self._trained, state_dict["trained"], strict=True):
            parameter.copy_(like(value, parameter))


def named_parts(average: Average | None, scaler: torch.amp.GradScaler | None = None) -> dict[str, Any]:
    """Return the average, and the scaler of fp16 gradients, under the names by which a training state holds them; what there is of them."""
    return {name: part for name, part in (("average", average), ("scaler", scaler)) if part is not None}
