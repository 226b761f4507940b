"""Readings of this process and those that it started: cores, memory, and memory of GPUs."""

from __future__ import annotations

import time

import psutil
import torch

from jobs.modeling.devices import visible_gpu


class ProcessUse:
    """Readings of this process and those that it started. Cores are the mean since the last reading."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._read_at, self._cpu_s = time.monotonic(), self._cpu_time_s()

    def read(self) -> dict[str, float | int | None]:
        """Return `cpu_cores`, `memory_bytes`, and `gpu_memory_bytes` (None without a GPU), as a gauge event names
        them.
        """
        now, cpu_s = time.monotonic(), self._cpu_time_s()
        lasted = now - self._read_at
        cores = round((cpu_s - self._cpu_s) / lasted, 3) if lasted > 0 else None
        self._read_at, self._cpu_s = now, cpu_s
        return {
            "cpu_cores": cores,
            "memory_bytes": sum(int(process.memory_info().rss) for process in self._processes()),
            "gpu_memory_bytes": _gpu_memory_bytes(),
        }

    def _cpu_time_s(self) -> float:
        times = [process.cpu_times() for process in self._processes()]
        return float(sum(time.user + time.system for time in times))

    def _processes(self) -> list[psutil.Process]:
        """Return this process, and the engine's where a server of another project is the engine."""
        running = [child for child in self._process.children(recursive=True) if child.is_running()]
        return [self._process, *running]


def _gpu_memory_bytes() -> int | None:
    if visible_gpu() is None:
        return None
    return sum(torch.accelerator.memory_reserved(index) for index in range(torch.accelerator.device_count()))
