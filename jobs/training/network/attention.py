"""Select the attention implementation that a run's config asks for."""

from __future__ import annotations

from typing import Any, Literal

import torch
from transformers.utils import is_flash_attn_2_available

from backend.errors import InvalidInput
from jobs.modeling.unusable import one_line

Attention = Literal["auto", "sdpa", "eager", "flex", "flash"]
NAMES = {"sdpa": "sdpa", "eager": "eager", "flex": "flex_attention", "flash": "flash_attention_2"}
REMEDY = "Choose attention auto, which takes the fastest available."


def choose_attention(network: Any, attention: Attention, *, device: torch.device, autocast: torch.dtype | None) -> None:
    """Set a network's attention implementation; `auto` leaves the choice to transformers.

    Raises InvalidInput for an implementation that this device, installation or network lacks.
    """
    if attention == "auto":
        return
    if attention in ("flex", "flash") and device.type != "cuda":
        raise InvalidInput(
            f"{attention} attention trains on a GPU only, and this run is on the CPU.", remedy=REMEDY, field="attention"
        )
    if attention == "flash" and not is_flash_attn_2_available():
        raise InvalidInput(
            "flash attention needs the package flash-attn, which is not installed here.",
            remedy=f"Install flash-attn on the workers, or: {REMEDY[0].lower()}{REMEDY[1:]}",
            field="attention",
        )
    if attention == "flash" and autocast is None:
        raise InvalidInput(
            "flash attention computes in 16 bits, and precision is fp32.",
            remedy="Choose precision bf16.",
            field="attention",
        )
    why = "it has an implementation of its own"
    try:
        network.set_attn_implementation(NAMES[attention])
    except (ValueError, ImportError) as error:
        why = one_line(error)
    if network.config._attn_implementation != NAMES[attention]:  # some networks ignore the setting
        raise InvalidInput(
            f"{type(network).__name__} can't compute attention by {attention}: {why}.", remedy=REMEDY, field="attention"
        )
