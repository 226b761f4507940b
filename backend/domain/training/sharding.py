"""Limits of the shardings: some optimizers need whole matrices, and DeepSpeed has limits of its own."""

from __future__ import annotations

from backend.domain.training.config import RunConfig
from backend.errors import InvalidInput

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
