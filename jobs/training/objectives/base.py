"""What one objective costs: the loss of a micro-batch, and what is measured beside it. The loop knows nothing more of an objective."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from jobs.batches.base import MicroBatch
from jobs.training.context import Parts
from jobs.training.losses.chunked_cross_entropy import NO_PENALTIES, Penalties
from jobs.training.losses.output_head import OutputHead
from jobs.training.network.experts import router_loss_weight

Item = TypeVar("Item")
Precision = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Cost:
    """The loss of a micro-batch.

    `total` is the sum over the micro-batch's units (trained tokens, or pairs), differentiable; the loop divides the totals of a step by
    the step's units, so that the loss does not depend on how a batch is cut into micro-batches. `extra` is added as it is, divided by
    the number of micro-batches (the routers' loss of experts). `sums` are metrics, summed over the units as well. `penalty` is what of
    `total` is left out of `train_loss`.
    """

    total: torch.Tensor
    extra: torch.Tensor | None = None
    penalty: torch.Tensor | None = None
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

    `penalties` are learnt beside it; `train_loss` and `val_loss` are the cross-entropy alone. `token_bytes` (bytes of text per token
    id) switches `val_bpb` on.
    """

    head: OutputHead
    token_bytes: npt.NDArray[np.int32] | None = None
    penalties: Penalties = NO_PENALTIES

    def cost(self, network: torch.nn.Module, batch: MicroBatch) -> Cost:
        """Return the cross-entropy in nats with its penalties, summed over the trained tokens."""
        weight = router_loss_weight(network) if network.training else 0.0
        losses, output = self.head.losses(network, batch, penalties=self.penalties, more={"output_router_logits": True} if weight else None)
        penalty = losses.total.detach() - losses.nll.sum() if any(self.penalties) else None
        return Cost(losses.total, extra=weight * output.aux_loss if weight else None, penalty=penalty)

    def validate(
        self, network: torch.nn.Module, batches: Iterable[MicroBatch], *, device: torch.device, precision: Precision
    ) -> dict[str, float]:
        """Return the mean over the tokens of all batches, and bits per byte of the text they stand for."""
        nll, tokens, text_nll, text_bytes = 0.0, 0, 0.0, 0
        table = None if self.token_bytes is None else torch.from_numpy(self.token_bytes)
        for batch in batches:
            with precision():
                losses = self.head.losses(network, batch.to(device))[0].nll.double().cpu()
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


def for_validation(parts: Parts, items: list[Item]) -> list[Item]:
    """Return the items of the val split that val_loss is measured on."""
    return items[: parts.measured]


def batch_sizes(parts: Parts) -> dict[str, Any]:
    """Return the arguments that the batches of every objective share."""
    config = parts.config
    return {
        "micro_batch": config.micro_batch,
        "grad_accum_steps": config.grad_accum_steps * parts.team.count,
        "measured": parts.measured,
        "seed": config.seed,
    }
