"""What a training process needed: its peak memory above where it stood before the network came, and how fast its steps were.

On a GPU the caching allocator keeps the books. On the CPU the kernel does: the high-water mark of resident memory, less what are pages
of files (libraries, the tokens' map), which are not the run's own. Against recording every allocation this costs nothing, so every run
is measured, and it counts what the C library's allocator holds back: what the machine is really out of.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
import resource
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from backend.domain.estimates.setting import DeviceKind
from backend.infra.devices import cpu_name
from jobs.reporter import Reporter, StopRequest
from jobs.training.telemetry.device_use import DeviceGauge

STATUS, MAPS, CLEAR = Path("/proc/self/status"), Path("/proc/self/smaps"), Path("/proc/self/clear_refs")
WARM_UP_STEPS = 2
MEMORY_EVERY_S = 1.0


class MemoryMeter:
    """Peak memory of this process from `begin` on, in bytes. Call `sample` now and then, so that file pages read later don't count."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._peak: int | None = None
        self._baseline = 0

    def begin(self) -> None:
        """Take what is held now as nothing: data and libraries are here, the network is still to come."""
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        _trim_heap()
        self._baseline, self._peak = _own_bytes(peak=False), 0
        with contextlib.suppress(OSError):
            CLEAR.write_text("5")  # the high-water mark starts anew (proc(5)); where that is not allowed it may stand too high
        self.sample()

    def sample(self) -> None:
        """Take note of the peak up to now."""
        if self._peak is not None and self._device.type == "cpu":
            self._peak = max(self._peak, _own_bytes(peak=True) - self._baseline)

    def peak_bytes(self) -> int | None:
        """Return the peak above the baseline; weights that are read from their file's pages count. None if `begin` was never called."""
        if self._peak is None:
            return None
        if self._device.type == "cuda":
            return torch.cuda.max_memory_reserved(self._device)
        self.sample()
        return max(self._peak + _weights_in_files(), 0)

    def held_bytes(self) -> int | None:
        """Return what is held at the moment, above the baseline; None if `begin` was never called."""
        if self._peak is None:
            return None
        if self._device.type == "cuda":
            return torch.cuda.memory_reserved(self._device)
        return max(_own_bytes(peak=False) - self._baseline, 0)

    def allocated_bytes(self) -> int | None:
        """Return the peak of tensors alone, where the allocator keeps the books."""
        return torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else None


class MeteredReporter:
    """A reporter that passes everything on and measures on the way: memory at every progress, time between the steps' metrics.

    To a step's metrics it adds what the device is doing: `mfu`, where `share_of_device` says what a rate of tokens is of it, and once a
    second `memory_bytes`.
    """

    def __init__(self, reporter: Reporter, meter: MemoryMeter, *, gauge: DeviceGauge | None = None) -> None:
        self._reporter, self._meter, self._gauge = reporter, meter, gauge
        self._rates: deque[float] = deque(maxlen=4096)
        self._seconds: deque[float] = deque(maxlen=4096)
        self._steps, self._last, self._memory_at = 0, 0.0, 0.0
        self.share_of_device: Callable[[float], float] | None = None

    def metrics(self, step: int, values: dict[str, float]) -> None:
        now = time.perf_counter()
        if "tok_per_sec" in values:
            self._steps += 1
            if self._steps > WARM_UP_STEPS:
                self._rates.append(values["tok_per_sec"])
                self._seconds.append(now - self._last)
            self._last = now
            values = {**values, **self._of_device(now, values["tok_per_sec"])}
        self._reporter.metrics(step, values)

    def _of_device(self, now: float, rate: float) -> dict[str, float]:
        read = {} if self._gauge is None else self._gauge.read()
        if self.share_of_device is not None:
            if (share := self.share_of_device(rate)) > 1:
                self.share_of_device = None  # the peak was measured too low, on a busy machine: no share of it is right
            else:
                read["mfu"] = share
        if now - self._memory_at >= MEMORY_EVERY_S and (held := self._meter.held_bytes()) is not None:
            self._memory_at = now
            read["memory_bytes"] = float(held)
        return read

    def progress(self, done: float, total: float, *, unit: str = "step", rate: float | None = None, message: str = "") -> None:
        self._meter.sample()
        self._reporter.progress(done, total, unit=unit, rate=rate, message=message)

    def log(self, text: str) -> None:
        self._reporter.log(text)

    def sample(self, step: int, prompt: str, completion: str) -> None:
        self._reporter.sample(step, prompt, completion)

    def event(self, type_: str, **fields: Any) -> None:
        self._reporter.event(type_, **fields)

    def should_stop(self) -> StopRequest | None:
        return self._reporter.should_stop()

    def measurement(self, device: torch.device) -> dict[str, Any] | None:
        """Return what was measured, as `services.measurements` records it; None for a run of too few steps."""
        peak = self._meter.peak_bytes()
        if peak is None or len(self._seconds) < 3:
            return None
        return {
            "measured_bytes": peak,
            "allocated_bytes": self._meter.allocated_bytes(),
            "tokens_per_s": statistics.median(self._rates),
            "device": device_name(device),
            "device_kind": device_kind(device),
            **step_times(list(self._seconds)),
        }


def step_times(seconds: list[float]) -> dict[str, float]:
    """Return the median time of a step in seconds, and the middle four fifths' borders, which say how much it varied."""
    ordered = sorted(seconds)
    last = len(ordered) - 1
    return {
        "step_s": statistics.median(ordered),
        "step_s_low": ordered[round(0.1 * last)],
        "step_s_high": ordered[round(0.9 * last)],
        "steps_timed": float(len(ordered)),
    }


def device_name(device: torch.device) -> str:
    """Return what a device is called, as workers call it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def device_kind(device: torch.device) -> DeviceKind:
    """Return the kind of a device, as a `TrainingSetting` has it."""
    return "gpu" if device.type == "cuda" else "cpu"


def _own_bytes(*, peak: bool) -> int:
    """Return resident memory that is not pages of files; with `peak` its high-water mark."""
    try:
        text = STATUS.read_text()
    except OSError:  # no /proc: the high-water mark of everything, from the system's accounts (kilobytes; bytes on macOS)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    found = {name: int(kilobytes) * 1024 for name, kilobytes in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
    if peak:
        return found["VmHWM"] - found.get("RssFile", 0) - found.get("RssShmem", 0)
    return found.get("RssAnon", found["VmRSS"])


def _weights_in_files() -> int:
    """Return the bytes of weights that lie in the pages of their own file: frozen ones, which transformers maps and nothing changes."""
    total, inside = 0, False
    try:
        with MAPS.open() as maps:
            for line in maps:
                if line[0] in "0123456789abcdef" and "-" in line.split(" ", 1)[0]:
                    inside = line.rstrip().endswith(".safetensors")
                elif inside and line.startswith("Rss:"):
                    total += int(line.split()[1]) * 1024
                elif inside and line.startswith("Anonymous:"):
                    total -= int(line.split()[1]) * 1024
    except OSError:
        return 0
    return total


def _trim_heap() -> None:
    """Give back what earlier work left in the heap: it would be used again, and missing from the peak."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
