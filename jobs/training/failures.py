"""What goes wrong in a step, told apart and put into words: memory that is too small, numbers that are not finite."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from backend.domain.training.config import RunConfig
from backend.errors import JobFailed

FULL = ("can't allocate memory", "not enough memory")
FP16_LARGEST = 65_504


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is one of the several ways of running out of memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in FULL)


def is_finite(tensors: list[torch.Tensor]) -> bool:
    """Whether every number is finite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


@dataclass(frozen=True)
class NotFinite:
    """A step whose loss or gradient is no finite number. Its update was not done.

    `micro_batch` counts from 1, None where it is not known; `held` says what it holds. `were_finite` are the weights before the step.
    `kept` is the step whose checkpoint holds the state before this one, None where there is none.
    """

    step: int
    loss: float
    grad_norm: float
    learning_rate: float
    micro_batches: int
    micro_batch: int | None
    held: str
    were_finite: bool
    kept: int | None

    def in_words(self, config: RunConfig, *, autocast: torch.dtype | None) -> JobFailed:
        """Return the failure: what happened, where, and the likeliest cause with its cure."""
        what = "gradient" if math.isfinite(self.loss) else "loss"
        value = self.grad_norm if what == "gradient" else self.loss
        where = f"step {self.step}, learning rate {self.learning_rate:.3g}"
        if self.micro_batch is not None:
            where += f", in micro-batch {self.micro_batch} of {self.micro_batches}" + (f": {self.held}" if self.held else "")
        cause, remedy, field = self._cause(config, autocast)
        saved = (
            f" The state before it is the checkpoint of step {self.kept}." if self.kept is not None else " Earlier checkpoints are intact."
        )
        return JobFailed(f"The {what} became {value} at {where}. {cause}", remedy=remedy + saved, field=field)

    def _cause(self, config: RunConfig, autocast: torch.dtype | None) -> tuple[str, str, str]:
        lower = f"Lower the learning rate (to {self.learning_rate / 4:.2g}, say)"
        if not self.were_finite:
            text = "Weights were not finite before this step, so an earlier one spoiled them."
            return text, f"{lower} and go on from an earlier checkpoint.", "learning_rate"
        if autocast is torch.float16:
            text = f"The likeliest cause is fp16, whose largest number is {FP16_LARGEST:,}."
            return text, "Set precision to bf16 or fp32.", "precision"
        if not config.grad_clip:
            text = "The likeliest cause is a gradient that grew without bound, as grad_clip is 0."
            return text, f"Set grad_clip to 1. {lower}, or lengthen warmup_steps.", "grad_clip"
        if math.isfinite(self.loss):
            text = "The loss is finite and its gradient is not, which a step that was too large leads to."
        else:
            text = "The likeliest cause is a learning rate too high for this network."
        return text, f"{lower}, or lengthen warmup_steps. If it comes back at the same rows, look at them.", "learning_rate"


@contextmanager
def out_of_memory_as_failure(config: RunConfig, *, device: torch.device) -> Iterator[None]:
    """Turn every way of running out of memory into one JobFailed that names the settings to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise JobFailed(
            f"The {'GPU' if device.type == 'cuda' else 'machine'} ran out of memory "
            f"with micro_batch {config.micro_batch} and context {config.context}.",
            remedy=f"Choose micro_batch {max(1, config.micro_batch // 2)} with grad_accum_steps {config.grad_accum_steps * 2} "
            "(the same tokens per step), a shorter context, or method lora.",
            field="micro_batch",
        ) from error
