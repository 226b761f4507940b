"""Failures of a training step, with their likely causes and remedies: too little memory, non-finite numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from backend.domain.training.config import RunConfig
from backend.errors import JobFailed
from jobs.modeling.devices import is_gpu, is_out_of_memory

FP16_MAX = 65_504


@contextmanager
def out_of_memory_as_failure(config: RunConfig, *, device: torch.device) -> Iterator[None]:
    """Translate every out-of-memory error to a JobFailed that names the settings to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise JobFailed(
            f"The {'GPU' if is_gpu(device) else 'machine'} ran out of memory "
            f"with micro_batch {config.micro_batch} and context {config.context}.",
            remedy=(
                f"Choose micro_batch {max(1, config.micro_batch // 2)} with grad_accum_steps"
                f" {config.grad_accum_steps * 2} (the same tokens per step), a shorter context, or method lora."
            ),
            field="micro_batch",
        ) from error


def is_finite(tensors: list[torch.Tensor]) -> bool:
    """Return whether every element of every tensor is finite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


@dataclass(frozen=True)
class NotFinite:
    """A step whose loss or gradient is not finite; its update was skipped.

    `micro_batch` counts from 1, None if unknown; `items` names its contents. `weights_were_finite` refers to the
    weights before the step. `saved_step` is the step whose checkpoint holds the state before this one, None if there is
    none.
    """

    step: int
    loss: float
    grad_norm: float
    learning_rate: float
    num_micro_batches: int
    micro_batch: int | None
    items: str
    weights_were_finite: bool
    saved_step: int | None

    def to_failure(self, config: RunConfig, *, autocast: torch.dtype | None) -> JobFailed:
        """Return the failure to raise: the step, the micro-batch, the likeliest cause and its remedy."""
        quantity, value = ("gradient", self.grad_norm) if math.isfinite(self.loss) else ("loss", self.loss)
        where = f"step {self.step}, learning rate {self.learning_rate:.3g}"
        if self.micro_batch is not None:
            where += f", in micro-batch {self.micro_batch} of {self.num_micro_batches}" + (
                f": {self.items}" if self.items else ""
            )
        cause, remedy, field = self._cause(config, autocast)
        saved = (
            f" The state before it is the checkpoint of step {self.saved_step}."
            if self.saved_step is not None
            else " Earlier checkpoints are intact."
        )
        return JobFailed(f"The {quantity} became {value} at {where}. {cause}", remedy=remedy + saved, field=field)

    def _cause(self, config: RunConfig, autocast: torch.dtype | None) -> tuple[str, str, str]:
        """Return (cause, remedy, field to change)."""
        lower = f"Lower the learning rate (to {self.learning_rate / 4:.2g}, say)"
        if not self.weights_were_finite:
            cause = "Weights were not finite before this step: an earlier update overflowed."
            return cause, f"{lower} and resume from an earlier checkpoint.", "learning_rate"
        if autocast is torch.float16:
            cause = f"The likeliest cause is the range of fp16, which ends at {FP16_MAX:,}."
            return cause, "Set precision to bf16 or fp32.", "precision"
        if not config.grad_clip:
            cause = "The likeliest cause is an exploding gradient, as grad_clip is 0."
            return cause, f"Set grad_clip to 1. {lower}, or lengthen warmup_steps.", "grad_clip"
        if math.isfinite(self.loss):
            cause = (
                "The loss is finite and its gradient is not: the likeliest cause is that an earlier update was too"
                " large."
            )
        else:
            cause = "The likeliest cause is a learning rate too high for this model."
        return (
            cause,
            f"{lower}, or lengthen warmup_steps. If it fails at the same rows again, check those rows.",
            "learning_rate",
        )
