"""How much of a micro-batch goes through the network at once: all of it, but on a CPU, whose cache is small beside a GPU's memory."""

from __future__ import annotations

from typing import Literal

from backend.domain.run_config import RunConfig

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
