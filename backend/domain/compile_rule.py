"""When torch.compile pays: a rule on what a run computes in all, so that the pages know it and a run that goes on decides as before."""

from __future__ import annotations

from typing import Literal

from backend.domain.run_config import Objective, RunConfig

WORTH_FLOPS = {"cpu": 1e14, "gpu": 1e17}
"""Operations of a run from which on compiling comes back: a quarter of an hour of a small CPU, and of one GPU at 100 TFLOP/s."""


def compiles(config: RunConfig, *, parameters: int, device: Literal["cpu", "gpu"]) -> bool:
    """Return whether a run of a network of so many parameters compiles it.

    `auto` asks two things: that all batches have one shape, which only pretraining's have, and that the run is long enough (6
    operations per parameter and token; Kaplan et al. 2020, arXiv 2001.08361, section 2.1).
    """
    if config.compile != "auto":
        return config.compile == "on"
    return config.objective is Objective.PRETRAIN and 6.0 * parameters * config.tokens_per_step * config.max_steps >= WORTH_FLOPS[device]
