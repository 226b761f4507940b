"""Check adapters against a base's family before anything is loaded, and say how their base is held. Pure."""

from __future__ import annotations

from backend.domain.architectures.families import FAMILIES
from backend.domain.training.config import RunConfig
from backend.domain.training.execution import uses_deepspeed
from backend.errors import InvalidInput

WITH_EXPERTS = frozenset(family.model_type for family in FAMILIES.values() if family.has_experts)


def check_adapters(config: RunConfig, model_type: str) -> None:
    """Raise InvalidInput for adapters that a base of this transformers model type does not support.

    Adapters of experts are merged into the weights before each use: they have no input of their own to drop, no
    separate direction and magnitude, and no singular vectors of a single matrix.
    """
    if config.method == "full" or model_type not in WITH_EXPERTS:
        return
    if config.lora.dropout:
        raise InvalidInput(
            f"This base has experts, and adapters of experts can't have the dropout of {config.lora.dropout:g}.",
            remedy="Set lora.dropout to 0.",
            field="lora.dropout",
        )
    if config.lora.variant in ("dora", "pissa"):
        raise InvalidInput(
            f"This base has experts, and adapters of experts can't be {config.lora.variant}.",
            remedy="Set lora.variant to lora or rslora.",
            field="lora.variant",
        )
    if config.method == "qlora":
        raise InvalidInput(
            "This base has experts, whose stacked weights can't be quantized.",
            remedy="Choose method lora.",
            field="method",
        )


def holds_16_bits(config: RunConfig) -> bool:
    """Return whether the frozen base is held in 16 bits (of qlora what is not quantised) if the run computes in them.

    Runs by DeepSpeed hold it in float32, as they are tested.
    """
    if config.method == "full" or uses_deepspeed(config):
        return False
    return config.method == "qlora" or config.lora.frozen_base == "16-bit"
