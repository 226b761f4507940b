"""Choose the device, number format and threads that a job computes with, and recognise the errors by which Python and
torch report that memory ran out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import torch

from backend.domain.estimates.setting import DeviceKind
from backend.errors import InvalidInput, JobFailed
from backend.infra.devices import cpu_name


def pick_device(setting: Literal["auto", "cpu", "gpu"] = "auto") -> torch.device:
    """Return the visible GPU (CUDA, ROCm, XPU, MPS), or the CPU. A job that holds no GPU sees none of any maker.

    Raises JobFailed if `setting` demands a GPU and none is visible.
    """
    gpu = visible_gpu()
    if setting == "gpu" and gpu is None:
        raise JobFailed(
            "The run asks for a GPU, and this worker sees none.",
            remedy="Choose device auto or cpu, or add a worker with a GPU.",
            field="device",
        )
    return gpu if gpu is not None and setting != "cpu" else torch.device("cpu")


def visible_gpu() -> torch.device | None:
    """Return the GPU that this process may use, None without one. A job that holds no GPU runs with an empty
    CUDA_VISIBLE_DEVICES, which hides those of other makers here.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return None
    return torch.accelerator.current_accelerator(check_available=True)


def is_gpu(device: torch.device) -> bool:
    """Return whether the device is a GPU of any maker."""
    return device.type != "cpu"


def gpu_functions(device: torch.device) -> Any:
    """Return torch's module for a maker's GPUs, for what `torch.accelerator` lacks: `torch.cuda`, `torch.xpu`, ..."""
    return torch.get_device_module(device)


def fork_random(device: torch.device) -> AbstractContextManager[None]:
    """Return a context that leaves the random state of the CPU and of the device as it was."""
    return torch.random.fork_rng(devices=[device] if is_gpu(device) else [], device_type=device.type)


def pick_autocast(precision: Literal["auto", "fp32", "bf16", "fp16"], *, device: torch.device) -> torch.dtype | None:
    """Return the type of mixed precision, or None for plain fp32. `auto`: bf16 on a GPU that supports it, else fp16;
    fp32 on the CPU.

    Raises InvalidInput for fp16 on a CPU, where it is slower than fp32.
    """
    if precision == "fp32":
        return None
    if precision == "bf16":
        return torch.bfloat16
    if not is_gpu(device):
        if precision == "fp16":
            raise InvalidInput(
                "fp16 trains on a GPU only.", remedy="Choose precision fp32, or bf16.", field="precision"
            )
        return None
    return torch.float16 if precision == "fp16" or not computes_bf16(device) else torch.bfloat16


def computes_bf16(device: torch.device) -> bool:
    """Return whether the GPU computes in bf16 itself; those before Ampere (T4, V100) emulate it, slower than fp32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    is_supported = getattr(gpu_functions(device), "is_bf16_supported", None)
    return bool(is_supported()) if is_supported is not None else False


def scoring_dtype(setting: str, *, stored: str | None, device: torch.device) -> torch.dtype:
    """Return the number format for scoring: the one that is set, else the checkpoint's own; on a CPU fp32, which holds
    every value of it.

    A score is never silently one of rounded weights.
    """
    formats = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if setting in formats:
        return formats[setting]
    return formats.get(stored or "", torch.float32) if is_gpu(device) else torch.float32


def pick_inference_dtype(*, device: torch.device) -> torch.dtype:
    """Return the type of weights for an endpoint: bf16 on a GPU that supports it, else fp32."""
    return torch.bfloat16 if is_gpu(device) and computes_bf16(device) else torch.float32


def free_bytes(device: torch.device) -> int | None:
    """Return the free memory of a GPU; None for another device."""
    if not is_gpu(device):
        return None
    # torch 2.9 has the first for CUDA and XPU only
    read = getattr(gpu_functions(device), "mem_get_info", torch.accelerator.get_memory_info)
    return int(read(device)[0])


def release_gpu_cache() -> None:
    """Return what torch's allocator keeps of freed GPU memory to the GPU; does nothing on the CPU."""
    if visible_gpu() is not None:
        torch.accelerator.empty_cache()


def set_threads(count: int) -> int:
    """Let torch compute with `count` threads, or its own choice if 0; return the number in force."""
    if count:
        torch.set_num_threads(count)
    return torch.get_num_threads()


@contextmanager
def faster_threads(compute: Callable[[], object]) -> Iterator[None]:
    """Compute within by one thread if that is faster now, for `compute`: on a busy machine each of a network's products
    waits for the thread that runs last, which for small ones takes many times as long as the product.
    """
    usual = torch.get_num_threads()
    seconds = {}
    try:
        for count in (usual, 1):
            torch.set_num_threads(count)
            compute()  # warm-up, such as starting the threads
            started = time.perf_counter()
            compute()
            seconds[count] = time.perf_counter() - started
        torch.set_num_threads(min(seconds, key=lambda count: seconds[count]))
        yield
    finally:
        torch.set_num_threads(usual)


def threads_of_rank(count: int) -> int:
    """Return the CPU threads of each of `count` processes that share this machine's cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // count)


def device_name(device: torch.device) -> str:
    """Return the product name of a device, as workers report it."""
    if not is_gpu(device):
        return cpu_name()
    get_name = getattr(gpu_functions(device), "get_device_name", None)
    return str(get_name(device)) if get_name is not None else device.type.upper()


def device_kind(device: torch.device) -> DeviceKind:
    """Return the kind of a device, as a `TrainingSetting` holds it."""
    return "gpu" if is_gpu(device) else "cpu"


ALLOCATION_MESSAGES = ("can't allocate memory", "not enough memory")
"""Parts of the messages of torch's CPU allocator, which raises a plain RuntimeError."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error reports that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in ALLOCATION_MESSAGES)
