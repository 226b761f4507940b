"""Learning-rate schedules as a pure function of the step, so that resuming needs no scheduler state."""

from __future__ import annotations

import math

from backend.domain.training.config import RunConfig

INVERSE_SQRT_TIMESCALE = 10_000
"""Steps after which inverse_sqrt without warm-up has fallen to 0.7 of the peak; else warm-up is the scale."""


def learning_rate_at(step: int, config: RunConfig) -> float:
    """Return the learning rate of update `step` (the first is 1): linear warm-up, then the schedule's curve.

    A curve reaches `min_learning_rate` after the last update, so that no update has a learning rate of zero. cosine:
    Loshchilov and Hutter 2017 (arXiv 1608.03983), one cycle without restart. wsd: the peak is held, then decays over
    the last `decay_steps` (0: a fifth of the run) as 1 - sqrt, which ended lower than a line in Hägele et al. 2024
    (arXiv 2405.18392, section 3). inverse_sqrt: Vaswani et al. 2017 (arXiv 1706.03762, section 5.3); it depends on no
    last step and never falls below the minimum.
    """
    peak, floor = config.learning_rate, config.min_learning_rate
    if step <= config.num_warmup_steps:
        return peak * step / config.num_warmup_steps
    done = step - 1 - config.num_warmup_steps
    if config.schedule == "constant":
        return peak
    if config.schedule == "inverse_sqrt":
        timescale = config.num_warmup_steps or INVERSE_SQRT_TIMESCALE
        return max(floor, peak / math.sqrt(1.0 + done / timescale))
    remaining = config.max_steps - config.num_warmup_steps
    if config.schedule == "wsd":
        decay = decay_steps_of(config)
        share = min(1.0, max(0.0, (done - (remaining - decay)) / decay))
        return floor + (peak - floor) * (1.0 - math.sqrt(share))
    share = min(1.0, done / remaining)
    shape = 0.5 * (1.0 + math.cos(math.pi * share)) if config.schedule == "cosine" else 1.0 - share
    return min(peak, floor + (peak - floor) * shape)


def decay_steps_of(config: RunConfig) -> int:
    """Return the steps of wsd's decay: `decay_steps`, or a fifth of the run, as far as warm-up leaves room."""
    decay = config.decay_steps or config.max_steps // 5
    return max(1, min(decay, config.max_steps - config.num_warmup_steps))
