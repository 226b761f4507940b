"""How the learning rate follows the step. A pure function of both, so that resuming needs no scheduler state."""

from __future__ import annotations

import math

from backend.domain.run_config import RunConfig


def learning_rate_at(step: int, config: RunConfig) -> float:
    """Return the learning rate of update `step` (the first is 1): linear warm-up, then cosine, linear or constant.

    `min_learning_rate` is where the curve arrives after the last update, so that no update is spent at a rate of zero.
    Cosine: Loshchilov and Hutter 2017 (arXiv 1608.03983), one cycle without restart.
    """
    peak, floor = config.learning_rate, config.min_learning_rate
    if step <= config.warmup_steps:
        return peak * step / config.warmup_steps
    if config.schedule == "constant":
        return peak
    remaining = config.max_steps - config.warmup_steps
    done = min(1.0, (step - 1 - config.warmup_steps) / remaining)
    shape = 0.5 * (1.0 + math.cos(math.pi * done)) if config.schedule == "cosine" else 1.0 - done
    return min(peak, floor + (peak - floor) * shape)
