"""How a run's network computes attention, where the run's config asks for a way."""

from __future__ import annotations

from typing import Any, Literal

import torch
from transformers.utils import is_flash_attn_2_available

from backend.errors import InvalidInput
from jobs.modeling.checkpoints import in_a_line

Attention = Literal["auto", "sdpa", "eager", "flex", "flash"]
NAMES = {"sdpa": "sdpa", "eager": "eager", "flex": "flex_attention", "flash": "flash_attention_2"}
REMEDY = "Choose attention auto, which takes the fastest that there is."


def choose_attention(network: Any, attention: Attention, *, device: torch.device, autocast: torch.dtype | None) -> None:
    """Let a transformers network compute attention in a way; `auto` leaves it transformers' choice.

    Raises InvalidInput for what this device, installation or network can't do.
    """
    if attention == "auto":
        return
    if attention in ("flex", "flash") and device.type != "cuda":
        raise InvalidInput(f"{attention} attention trains on a GPU only, and this run is on the CPU.", remedy=REMEDY, field="attention")
    if attention == "flash" and not is_flash_attn_2_available():
        raise InvalidInput(
            "flash attention needs the package flash-attn, which is not installed here.",
            remedy=f"Install flash-attn on the workers, or: {REMEDY[0].lower()}{REMEDY[1:]}",
            field="attention",
        )
    if attention == "flash" and autocast is None:
        raise InvalidInput(
            "flash attention computes in 16 bits, and precision is fp32.", remedy="Choose precision bf16.", field="attention"
        )
    why = "it has its own way"
    try:
        network.set_attn_implementation(NAMES[attention])
    except (ValueError, ImportError) as error:
        why = in_a_line(error)
    if network.config._attn_implementation != NAMES[attention]:  # some networks take no notice
        raise InvalidInput(f"{type(network).__name__} can't compute attention by {attention}: {why}.", remedy=REMEDY, field="attention")
