"""What one objective costs: the loss of a micro-batch, and what is measured beside it. The loop knows nothing more of an objective."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from jobs.training.batches import IGNORE, MicroBatch
from jobs.training.experts import router_loss_weight

Precision = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Cost:
    """The loss of a micro-batch.

    `total` is the sum over the micro-batch's units (trained tokens, or pairs), differentiable; the loop divides the totals of a step by
    the step's units, so that the loss does not depend on how a batch is cut into micro-batches. `extra` is added as it is, divided by
    the number of micro-batches (the routers' loss of experts). `sums` are metrics, summed over the units as well.
    """

    total: torch.Tensor
    extra: torch.Tensor | None = None
    sums: dict[str, torch.Tensor] = field(default_factory=dict)


class Lesson(Protocol):
    """An objective. `Batch` is whatever its batches yield: it has `units` and `to(device)`."""

    def cost(self, network: torch.nn.Module, batch: Any) -> Cost:
        """Return what a micro-batch costs, on the device it lies on."""

    def validate(self, network: torch.nn.Module, batches: Iterable[Any], *, device: torch.device, precision: Precision) -> dict[str, float]:
        """Return val_loss and what is measured with it, by their names as metrics; empty without a validation split."""


@dataclass(frozen=True)
class LanguageLesson:
    """Cross-entropy of the next token: pretrain and sft.

    `token_bytes` (bytes of text per token id) switches `val_bpb` on.
    """

    token_bytes: npt.NDArray[np.int32] | None = None

    def cost(self, network: torch.nn.Module, batch: MicroBatch) -> Cost:
        """Return the cross-entropy in nats, summed over the trained tokens."""
        losses, router_loss = self._losses(network, batch)
        return Cost(losses.sum(), extra=router_loss)

    def validate(
        self, network: torch.nn.Module, batches: Iterable[MicroBatch], *, device: torch.device, precision: Precision
    ) -> dict[str, float]:
        """Return the mean over the tokens of all batches, and bits per byte of the text they stand for."""
        nll, tokens, text_nll, text_bytes = 0.0, 0, 0.0, 0
        table = None if self.token_bytes is None else torch.from_numpy(self.token_bytes)
        for batch in batches:
            with precision():
                losses = self._losses(network, batch.to(device))[0].double().cpu()
            nll += float(losses.sum())
            tokens += batch.units
            if table is not None:  # special tokens stand for no text: left out above and below the line
                lengths = table[batch.targets.flatten()]
                text_nll += float(losses[lengths > 0].sum())
                text_bytes += int(lengths.sum())
        if tokens == 0:
            return {}
        values = {"val_loss": nll / tokens}
        if text_bytes:
            values["val_bpb"] = text_nll / text_bytes / math.log(2)
        return values

    def _losses(self, network: torch.nn.Module, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the cross-entropy of every target in nats, flat, ignored ones 0; and what the routers of experts add in training."""
        targets = batch.targets
        weight = router_loss_weight(network) if network.training else 0.0
        more: dict[str, Any] = {"output_router_logits": True} if weight else {}
        if batch.columns is not None:  # the head runs only where something is trained on
            targets, more = targets[:, batch.columns], {**more, "logits_to_keep": batch.columns}
        output = network(**batch.arguments, **more)
        router_loss = weight * output.aux_loss if weight else None
        losses = F.cross_entropy(output.logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORE, reduction="none")
        return losses, router_loss
