"""Choose the device, number format and threads that a job computes with."""

from __future__ import annotations

import os
from typing import Literal

import torch

from backend.domain.estimates.setting import DeviceKind
from backend.errors import InvalidInput, JobFailed
from backend.infra.devices import cpu_name


def pick_device(setting: Literal["auto", "cpu", "gpu"] = "auto") -> torch.device:
    """Return the visible GPU, or the CPU.

    Raises JobFailed if `setting` demands a GPU and none is visible.
    """
    is_visible = torch.cuda.is_available()
    if setting == "gpu" and not is_visible:
        raise JobFailed(
            "The run asks for a GPU, and this worker sees none.",
            remedy="Choose device auto or cpu, or add a worker with a GPU.",
            field="device",
        )
    return torch.device("cuda" if is_visible and setting != "cpu" else "cpu")


def pick_autocast(precision: Literal["auto", "fp32", "bf16", "fp16"], *, device: torch.device) -> torch.dtype | None:
    """Return the type of mixed precision, or None for plain fp32. `auto`: bf16 on a GPU that supports it, else fp16;
    fp32 on the CPU.

    Raises InvalidInput for fp16 on a CPU, where it is slower than fp32.
    """
    if precision == "fp32":
        return None
    if precision == "bf16":
        return torch.bfloat16
    if device.type != "cuda":
        if precision == "fp16":
            raise InvalidInput(
                "fp16 trains on a GPU only.", remedy="Choose precision fp32, or bf16.", field="precision"
            )
        return None
    return torch.float16 if precision == "fp16" or not computes_bf16() else torch.bfloat16


def computes_bf16() -> bool:
    """Return whether the GPU computes in bf16 itself; those before Ampere (T4, V100) emulate it, slower than fp32."""
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def scoring_dtype(setting: str, *, stored: str | None, device: torch.device) -> torch.dtype:
    """Return the number format for scoring: the one that is set, else the checkpoint's own; on a CPU fp32, which holds
    every value of it.

    A score is never silently one of rounded weights.
    """
    formats = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if setting in formats:
        return formats[setting]
    return formats.get(stored or "", torch.float32) if device.type == "cuda" else torch.float32


def pick_inference_dtype(*, device: torch.device) -> torch.dtype:
    """Return the type of weights for an endpoint: bf16 on a GPU that supports it, else fp32."""
    return torch.bfloat16 if device.type == "cuda" and computes_bf16() else torch.float32


def free_bytes(device: torch.device) -> int | None:
    """Return the free memory of a GPU; None for another device."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else None


def set_threads(count: int) -> int:
    """Let torch compute with `count` threads, or its own choice if 0; return the number in force."""
    if count:
        torch.set_num_threads(count)
    return torch.get_num_threads()


def threads_of_rank(count: int) -> int:
    """Return the CPU threads of each of `count` processes that share this machine's cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // count)


def device_name(device: torch.device) -> str:
    """Return the product name of a device, as workers report it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def device_kind(device: torch.device) -> DeviceKind:
    """Return the kind of a device, as a `TrainingSetting` holds it."""
    return "gpu" if device.type == "cuda" else "cpu"
