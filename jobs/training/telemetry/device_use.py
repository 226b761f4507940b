"""How busy the device is and what it draws, read now and then beside the steps' metrics: as cheap as looking at a clock.

On a GPU by NVIDIA's management library, through torch. On the CPU by this process's own clock, and by the processor's energy counter
where it may be read (Linux, RAPL; most systems leave that to root).
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

SAMPLE_EVERY_S = 5.0
RAPL = Path("/sys/class/powercap")


class DeviceGauge:
    """Reads `device_use` (0 to 1: of the GPU, or of the cores that this process may use) and `power_w` (of the GPU, or of the processor)."""

    def __init__(self, device: torch.device, *, rapl: Path = RAPL) -> None:
        self._device, self._counters = device, sorted(rapl.glob("intel-rapl:[0-9]*/energy_uj")) if device.type == "cpu" else []
        self._counters = [counter for counter in self._counters if counter.parent.name.count(":") == 1]  # packages, not their parts
        self._cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._at, self._busy_s, self._joules = time.perf_counter(), time.process_time(), self._energy()
        self._is_readable = True

    def read(self) -> dict[str, float]:
        """Return what is readable since the last reading, or nothing if that was less than 5 s ago."""
        now = time.perf_counter()
        lasted = now - self._at
        if lasted < SAMPLE_EVERY_S or not self._is_readable:
            return {}
        self._at = now
        return self._read_gpu() if self._device.type == "cuda" else self._read_cpu(lasted)

    def _read_gpu(self) -> dict[str, float]:
        try:
            return {
                "device_use": torch.cuda.utilization(self._device) / 100,
                "power_w": torch.cuda.power_draw(self._device) / 1000,
            }
        except Exception:  # no library, no permission, a virtual GPU: as many kinds of error as drivers; it will not get better
            self._is_readable = False
            return {}

    def _read_cpu(self, lasted: float) -> dict[str, float]:
        busy, joules = time.process_time(), self._energy()
        values = {"device_use": min(1.0, (busy - self._busy_s) / lasted / self._cores)}
        if joules is not None and self._joules is not None and joules >= self._joules:  # the counter begins again now and then
            values["power_w"] = (joules - self._joules) / lasted
        self._busy_s, self._joules = busy, joules
        return values

    def _energy(self) -> float | None:
        """Return what the processors have used so far, in joules; None where nobody may know."""
        try:
            return sum(int(counter.read_text()) for counter in self._counters) / 1e6 if self._counters else None
        except (OSError, ValueError):
            return None
