"""What stays of a batch when a run goes on with other devices or another micro-batch: the sequences that a step sees."""

from __future__ import annotations

from backend.domain.run_config import RunConfig
from backend.errors import InvalidInput


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
