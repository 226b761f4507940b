"""Which device, number format and how many threads a room computes with."""

from __future__ import annotations

from typing import Literal

import torch

from backend.errors import InvalidInput, JobFailed


def pick_device(setting: Literal["auto", "cpu", "gpu"] = "auto") -> torch.device:
    """Return the GPU that this process may see, or the CPU.

    Raises JobFailed if a GPU was demanded and none is visible.
    """
    visible = torch.cuda.is_available()
    if setting == "gpu" and not visible:
        raise JobFailed(
            "The run asks for a GPU, and this worker sees none.",
            remedy="Choose device auto or cpu, or add a worker with a GPU.",
            field="device",
        )
    return torch.device("cuda" if visible and setting != "cpu" else "cpu")


def pick_autocast(precision: Literal["auto", "fp32", "bf16", "fp16"], *, device: torch.device) -> torch.dtype | None:
    """Return the type of mixed precision, or None for plain fp32. `auto`: bf16 on a GPU that has it, else fp16; fp32 on the CPU.

    Raises InvalidInput for fp16 on a CPU, which computes it slower than fp32.
    """
    if precision == "fp32":
        return None
    if precision == "bf16":
        return torch.bfloat16
    if device.type != "cuda":
        if precision == "fp16":
            raise InvalidInput("fp16 trains on a GPU only.", remedy="Choose precision fp32, or bf16.", field="precision")
        return None
    return torch.float16 if precision == "fp16" or not torch.cuda.is_bf16_supported() else torch.bfloat16


def pick_inference_dtype(*, device: torch.device) -> torch.dtype:
    """Return the type that weights are held in for scoring and generation: bf16 on a GPU that has it, else fp32."""
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32


def set_threads(count: int | None) -> int:
    """Let torch compute with `count` threads (None leaves its choice); return the number in force."""
    if count is not None:
        torch.set_num_threads(max(1, count))
    return torch.get_num_threads()
