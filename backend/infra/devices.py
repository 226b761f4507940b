"""Read the devices of this machine: GPUs through NVML (a worker imports no torch), CPU and memory through psutil."""

from __future__ import annotations

import contextlib
import os
import platform
from functools import lru_cache
from pathlib import Path

import psutil

from backend.domain.jobs.gauges import GpuGauges, MachineGauges


@lru_cache(maxsize=4)
def visible_devices(setting: str) -> tuple[str, ...]:
    """Return the GPUs that jobs may hold, as CUDA_VISIBLE_DEVICES spells them.

    `auto` asks NVML (within CUDA_VISIBLE_DEVICES, if set), `none` hides them, and a list such as `0,1` is used
    unchecked.
    """
    if setting == "none":
        return ()
    if setting != "auto":
        return tuple(part.strip() for part in setting.split(",") if part.strip())
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return tuple(part.strip() for part in allowed.split(",") if part.strip())
    return tuple(gpu.index for gpu in read_gpus())


def read_gpus() -> list[GpuGauges]:
    """Return index, name, utilisation (percent) and memory (bytes) of each NVIDIA GPU; empty without GPU or driver."""
    import pynvml  # imported here, as few processes need it

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    return [_read_gpu(index) for index in range(pynvml.nvmlDeviceGetCount())]


def _read_gpu(index: int) -> GpuGauges:
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    try:
        utilisation = float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    except pynvml.NVMLError:  # not reported, as by a GPU in MIG mode
        utilisation = None
    return GpuGauges(
        index=str(index),
        name=pynvml.nvmlDeviceGetName(handle),
        utilisation_percent=utilisation,
        memory_used_bytes=int(memory.used),
        memory_total_bytes=int(memory.total),
    )


@lru_cache(maxsize=1)
def cpu_name() -> str:
    """Return the name of this machine's processor with the usable cores: `Intel(R) Xeon(R) Processor, 2 cores`."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    cores = count_usable_cores()
    return f"{name[:64]}, {cores} core{'' if cores == 1 else 's'}"


def count_usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_machine_gauges() -> MachineGauges:
    """Return CPU load (percent since the last call), memory (bytes) and GPUs of this machine."""
    memory = psutil.virtual_memory()
    return MachineGauges(
        cpu_percent=psutil.cpu_percent(interval=None),
        cpu_count=psutil.cpu_count(),
        cpu_name=cpu_name(),
        memory_used_bytes=memory.total - memory.available,
        memory_total_bytes=memory.total,
        gpus=tuple(read_gpus()),
    )
