"""Readings of this process and those that it started: cores, memory, and memory of GPUs."""

from __future__ import annotations

import time
from contextlib import suppress

import psutil
import torch

from jobs.modeling.devices import visible_gpu


class ProcessUse:
    """Readings of this process and those that it started. Cores are the mean since the last reading."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._read_at, (self._cpu_s, _) = time.monotonic(), self._totals()

    def read(self) -> dict[str, float | int | None]:
        """Return `cpu_cores`, `memory_bytes`, and `gpu_memory_bytes` (None without a GPU), as gauge events do."""
        now, (cpu_s, memory_bytes) = time.monotonic(), self._totals()
        lasted = now - self._read_at
        # a process that has ended takes its seconds with it
        cores = round(max(0.0, cpu_s - self._cpu_s) / lasted, 3) if lasted > 0 else None
        self._read_at, self._cpu_s = now, cpu_s
        return {"cpu_cores": cores, "memory_bytes": memory_bytes, "gpu_memory_bytes": _gpu_memory_bytes()}

    def _totals(self) -> tuple[float, int]:
        """Return the processor seconds and the memory of this process and of those that it started and that run: a
        server of another project is the engine of some replicas.
        """
        cpu_s, memory_bytes = 0.0, 0
        for process in (self._process, *self._process.children(recursive=True)):
            with suppress(psutil.Error):  # it may end at any moment
                times, memory = process.cpu_times(), process.memory_info()
                cpu_s += times.user + times.system
                memory_bytes += int(memory.rss)
        return cpu_s, memory_bytes


def _gpu_memory_bytes() -> int | None:
    if visible_gpu() is None:
        return None
    return sum(torch.accelerator.memory_reserved(index) for index in range(torch.accelerator.device_count()))
