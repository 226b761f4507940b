"""Which adapters a network can have, in words, before anything is loaded. Knows no tensors."""

from __future__ import annotations

from backend.domain.architectures.families import FAMILIES
from backend.domain.training.config import RunConfig
from backend.errors import InvalidInput

WITH_EXPERTS = frozenset(family.model_type for family in FAMILIES.values() if family.has_experts)


def check_adapters(config: RunConfig, model_type: str) -> None:
    """Raise InvalidInput for adapters that a base of this transformers type can't have.

    Adapters of experts are folded into the weights before each use: they have no input of their own that could be dropped, no
    direction and magnitude apart, and no singular vectors of one matrix.
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
            "This base has experts, whose weights lie in blocks that can't be stored in few bits.",
            remedy="Choose method lora.",
            field="method",
        )
