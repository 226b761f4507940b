"""When torch.compile pays: a rule on what a run computes in all, so that the pages know it and a run that goes on decides as before."""

from __future__ import annotations

from typing import Literal

from backend.domain.training.config import Objective, RunConfig
from backend.errors import InvalidInput

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


PASS_TOKENS = 1024
"""Tokens that a CPU passes at once: what a block computes of so many stays in the cache, and an eager step of 4,096 takes 0.93 of its time
(docs/benchmarks/pretraining.md). With half as many, adding up the gradients of more passes costs what is gained."""


def sequences_at_once(config: RunConfig, *, device: Literal["cpu", "gpu"], is_full: bool, has_experts: bool) -> int:
    """Return how many sequences of a step a forward pass takes: micro_batch, or on a CPU as many of them as suit its cache.

    The loss of a step is the same function of the same data, however it is cut. Only full sequences are cut (those of pretraining and
    packing), as the others' lengths vary; and none where it would be another loss, as the routers' of experts is by the pass.
    """
    at_once = max(1, PASS_TOKENS // config.context)
    if device != "cpu" or not is_full or has_experts or config.devices.count > 1 or at_once >= config.micro_batch:
        return config.micro_batch
    sequences = config.micro_batch * config.grad_accum_steps
    passes = -(-sequences // at_once)
    return -(-sequences // passes)  # all alike, or nearly


def keep_global_batch(config: RunConfig, sequences: int) -> RunConfig:
    """Return the config with a micro-batch and grad_accum_steps that make a step of `sequences` in all, on its number of devices.

    The micro-batch becomes the largest that is no larger than the config's. Raises InvalidInput if the devices can't share the
    sequences evenly.

    Example:
        >>> config = RunConfig(dataset="d", architecture="a", tokenizer="t", micro_batch=8, devices={"count": 2})
        >>> kept = keep_global_batch(config, 32)
        >>> kept.micro_batch, kept.grad_accum_steps
        (8, 2)
    """
    count = config.devices.count
    if config.micro_batch * config.grad_accum_steps * count == sequences:
        return config
    if sequences % count:
        able = [str(number) for number in range(1, min(sequences, 64) + 1) if sequences % number == 0]
        raise InvalidInput(
            f"A step of this run has {sequences} sequences, which {count} devices can't share evenly.",
            remedy=f"Go on with {', '.join(able)} devices.",
            field="devices.count",
        )
    share = sequences // count
    micro_batch = max(size for size in range(1, min(config.micro_batch, share) + 1) if share % size == 0)
    return config.model_copy(update={"micro_batch": micro_batch, "grad_accum_steps": share // micro_batch})
