"""Readings of this process: cores, memory, and memory of GPUs."""

from __future__ import annotations

import time

import psutil
import torch

from jobs.modeling.devices import visible_gpu


class ProcessUse:
    """Readings of this process. Cores are the mean since the last reading."""

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
            "memory_bytes": int(self._process.memory_info().rss),
            "gpu_memory_bytes": _gpu_memory_bytes(),
        }

    def _cpu_time_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


def _gpu_memory_bytes() -> int | None:
    if visible_gpu() is None:
        return None
    return sum(torch.accelerator.memory_reserved(index) for index in range(torch.accelerator.device_count()))
