"""Execution of a step: compilation, sequences per forward pass, the batch over devices, and what a sharding can't do.
Pages and jobs agree.
"""

from __future__ import annotations

from typing import Literal

from backend.domain.training.config import RunConfig
from backend.errors import InvalidInput

WORTH_FLOPS = {"cpu": 1e14, "gpu": 1e17}
"""FLOPs of a run above which compiling pays off: 15 minutes of a small CPU, and of one GPU at 100 TFLOP/s."""


def compiles(config: RunConfig, *, parameters: int, device: Literal["cpu", "gpu"]) -> bool:
    """Return whether a run compiles a network with this number of parameters.

    `auto` requires that all batches have one shape, as in pretraining only, and that the run is long enough (6 FLOPs
    per parameter and token; Kaplan et al. 2020, arXiv 2001.08361, section 2.1).
    """
    if config.compile != "auto" or uses_deepspeed(config):
        return config.compile == "on"
    return (
        config.objective.pretrains
        and 6.0 * parameters * config.tokens_per_step * config.max_steps >= WORTH_FLOPS[device]
    )


PASS_TOKENS = 1024
"""Tokens in one forward pass on a CPU: a block's activations then fit the cache, and an eager step of 4,096 takes 0.93
of the time (docs/benchmarks/pretraining.md). With half as many, accumulating more gradients cancels the gain.
"""


def sequences_at_once(config: RunConfig, *, device: Literal["cpu", "gpu"], is_full: bool, has_experts: bool) -> int:
    """Return the sequences per forward pass: micro_batch, or on a CPU as many as fit its cache.

    The loss of a step does not depend on the split. Only full sequences (pretraining, packing) are split, as lengths
    vary otherwise; and none where the loss would change, as the router loss of experts is computed per pass.
    """
    at_once = max(1, PASS_TOKENS // config.context)
    if device != "cpu" or not is_full or has_experts or config.devices.count > 1 or at_once >= config.micro_batch:
        return config.micro_batch
    sequences = config.micro_batch * config.grad_accum_steps
    passes = -(-sequences // at_once)
    return -(-sequences // passes)  # passes of equal size, or nearly


def keep_global_batch(config: RunConfig, sequences: int) -> RunConfig:
    """Return the config with micro_batch and grad_accum_steps such that a step has `sequences` in all on its devices.

    The micro-batch becomes the largest that is no larger than the config's. Raises InvalidInput if the devices can't
    share the sequences evenly.

    Example:
        >>> config = RunConfig(dataset="d", architecture="a", tokenizer="t", micro_batch=8, devices={"count": 2})
        >>> resumed = keep_global_batch(config, 32)
        >>> resumed.micro_batch, resumed.grad_accum_steps
        (8, 2)
    """
    count = config.devices.count
    if config.micro_batch * config.grad_accum_steps * count == sequences:
        return config
    if sequences % count:
        able = [str(number) for number in range(1, min(sequences, 64) + 1) if sequences % number == 0]
        raise InvalidInput(
            f"A step of this run has {sequences} sequences, which can't be split evenly over {count} devices.",
            remedy=f"Use {', '.join(able)} devices.",
            field="devices.count",
        )
    share = sequences // count
    micro_batch = max(size for size in range(1, min(config.micro_batch, share) + 1) if share % size == 0)
    return config.model_copy(update={"micro_batch": micro_batch, "grad_accum_steps": share // micro_batch})


WHOLE_MATRICES = ("muon", "adamw_8bit", "adafactor")
"""Optimizers whose update of a matrix needs all of it."""
ZERO = ("zero2", "zero3")
BUCKET_ELEMENTS = 50_000_000
"""Elements that DeepSpeed reduces together; its default, ten times as many, would take 2 GB beside the network."""


def uses_deepspeed(config: RunConfig) -> bool:
    """Return whether DeepSpeed trains a run."""
    return config.devices.count > 1 and config.devices.sharding in ZERO


def check_sharding(config: RunConfig, *, has_deepspeed: bool) -> None:
    """Raise InvalidInput for a setting that the run's sharding can't do."""
    sharding = config.devices.sharding
    if config.devices.count == 1 or sharding == "ddp":
        return
    if config.optimizer in WHOLE_MATRICES:
        raise InvalidInput(
            f"{config.optimizer} needs whole matrices, and {sharding} shards them.",
            remedy="Choose sharding ddp, or optimizer adamw.",
            field="optimizer",
        )
    if not uses_deepspeed(config):
        return
    if not has_deepspeed:
        raise InvalidInput(
            f"devices.sharding {sharding} needs the library deepspeed, which is not installed here.",
            remedy="Install it (`pip install 'roundhouse[deepspeed]'`), or choose fsdp, which shards as zero3 does.",
            field="devices.sharding",
        )
    if config.ema_decay:
        field, why, cure = "ema_decay", "averages weights that DeepSpeed keeps in a form of its own", "0"
    elif config.precision == "fp16":
        field, why, cure = "precision", "needs gradients scaled as DeepSpeed does not", "bf16 or fp32"
    elif config.method == "qlora":
        field, why, cure = "method", "stores the base in numbers that DeepSpeed does not take apart", "lora"
    elif config.compile == "on":
        field, why, cure = "compile", "would compile the model around DeepSpeed's hooks", "off"
    else:
        return
    raise InvalidInput(
        f"{field} {getattr(config, field)} {why}, so {sharding} can't train this run.",
        remedy=f"Choose {field} {cure}, or devices.sharding fsdp.",
        field=field,
    )
