"""Hold the frozen base of adapters in the 16 bits in which mixed precision computes: half the memory of float32.

Autocast rounds what a matrix product reads to 16 bits, so a matrix that is held rounded gives the same product to the
last bit. An embedding is rounded as well, and its rows are read as float32, so that what follows stays in float32: the
same numbers for a base whose file has no more bits. Norms and biases stay in float32, as do the adapters, and the
experts of a mixture, which compute in float32.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.pytorch_utils import Conv1D

from backend.domain.training.adapters import holds_16_bits
from jobs.training.context import TrainingContext


class HeldLinear(nn.Linear):
    """A linear layer whose matrix may have fewer bits than what it reads, also outside autocast."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Compute in autocast's type, else in that of the input."""
        if torch.is_autocast_enabled(input.device.type):
            return super().forward(input)
        return F.linear(input, self.weight.to(input.dtype), self.bias)


class HeldConv1D(Conv1D):  # type: ignore[misc]
    """The same of GPT-2's transposed layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute in autocast's type, else in that of the input."""
        if torch.is_autocast_enabled(x.device.type):
            computed: torch.Tensor = super().forward(x)
            return computed
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight.to(x.dtype)).view(*x.shape[:-1], self.nf)


LAYERS: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: HeldLinear, Conv1D: HeldConv1D}


def held_type(ctx: TrainingContext) -> torch.dtype | None:
    """Return the 16-bit type in which a run holds its frozen base, or None."""
    return ctx.autocast if holds_16_bits(ctx.config) else None


def hold_frozen(model: nn.Module, held: torch.dtype | None) -> None:
    """Round a network's frozen matrices in place, also those without weights yet; None leaves them as they are."""
    if held is None:
        return
    for module in model.modules():
        weight: Any = getattr(module, "weight", None)
        is_embedding = isinstance(module, nn.Embedding)
        if not (is_embedding or type(module) in LAYERS) or weight.requires_grad or not weight.is_floating_point():
            continue
        if is_embedding:
            module.register_forward_hook(_widen)
        else:
            module.__class__ = LAYERS[type(module)]
        weight.data = weight.data.to(held)


def _widen(module: nn.Module, args: object, output: torch.Tensor) -> torch.Tensor:
    return output.float()
