"""Utilisation and power draw of the device, sampled with the steps' metrics at the cost of reading a clock.

On a GPU from NVIDIA's management library, through torch. On the CPU from this process's CPU time, and from the
processor's energy counter if it is readable (Linux RAPL; by root alone on most systems).
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

from jobs.modeling.devices import gpu_functions, is_gpu

SAMPLE_EVERY_S = 5.0
RAPL = Path("/sys/class/powercap")


class DeviceGauge:
    """Reads `device_use` (0 to 1, of the GPU or of the cores that this process may use) and `power_w` (of the GPU or
    the processor).
    """

    def __init__(self, device: torch.device, *, rapl: Path = RAPL) -> None:
        self._device, self._counters = (
            device,
            sorted(rapl.glob("intel-rapl:[0-9]*/energy_uj")) if not is_gpu(device) else [],
        )
        self._counters = [
            counter for counter in self._counters if counter.parent.name.count(":") == 1
        ]  # packages, not their subdomains
        self._cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._at, self._busy_s, self._joules = time.perf_counter(), time.process_time(), self._energy()
        self._is_readable = True

    def read(self) -> dict[str, float]:
        """Return the readings since the last call that returned any; nothing within 5 s of it."""
        now = time.perf_counter()
        elapsed_s = now - self._at
        if elapsed_s < SAMPLE_EVERY_S or not self._is_readable:
            return {}
        self._at = now
        return self._read_gpu() if is_gpu(self._device) else self._read_cpu(elapsed_s)

    def _read_gpu(self) -> dict[str, float]:
        try:
            return {
                "device_use": gpu_functions(self._device).utilization(self._device) / 100,
                "power_w": gpu_functions(self._device).power_draw(self._device) / 1000,
            }
        except (
            Exception
        ):  # no library, no permission, a virtual GPU: drivers raise all kinds of errors, and retrying does not help
            self._is_readable = False
            return {}

    def _read_cpu(self, elapsed_s: float) -> dict[str, float]:
        busy, joules = time.process_time(), self._energy()
        values = {"device_use": min(1.0, (busy - self._busy_s) / elapsed_s / self._cores)}
        if joules is not None and self._joules is not None and joules >= self._joules:  # the counter wraps around
            values["power_w"] = (joules - self._joules) / elapsed_s
        self._busy_s, self._joules = busy, joules
        return values

    def _energy(self) -> float | None:
        """Return the energy that the processors have used so far, in joules; None if it is not readable."""
        try:
            return sum(int(counter.read_text()) for counter in self._counters) / 1e6 if self._counters else None
        except (OSError, ValueError):
            return None
