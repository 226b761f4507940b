"""A reporter that measures the run it reports on: memory, step times, utilisation."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import torch

from jobs.modeling.devices import device_kind, device_name
from jobs.reporter import Reporter, StopRequest
from jobs.training.telemetry.device_use import DeviceGauge
from jobs.training.telemetry.memory import MemoryMeter

WARM_UP_STEPS = 2
MEMORY_EVERY_S = 1.0


class MeteredReporter:
    """A reporter that forwards everything and measures the run: memory at every progress report, time between steps' metrics.

    It adds to a step's metrics `mfu`, if `mfu_of_rate` is set, `memory_bytes` once a second, and what `gauge` reads of the device.
    """

    def __init__(self, reporter: Reporter, meter: MemoryMeter, *, gauge: DeviceGauge | None = None) -> None:
        self._reporter, self._meter, self._gauge = reporter, meter, gauge
        self._rates: deque[float] = deque(maxlen=4096)
        self._seconds: deque[float] = deque(maxlen=4096)
        self._steps, self._last, self._memory_at = 0, 0.0, 0.0
        self.mfu_of_rate: Callable[[float], float] | None = None

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
        if self.mfu_of_rate is not None:
            if (mfu := self.mfu_of_rate(rate)) > 1:
                self.mfu_of_rate = None  # the device's peak was measured on a busy machine, so it is too low for any rate
            else:
                read["mfu"] = mfu
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
        """Return the measurement that `services.measurements` records; None for a run of too few steps."""
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
    """Return the median time of a step in seconds, with its 10th and 90th percentile."""
    ordered = sorted(seconds)
    last = len(ordered) - 1
    return {
        "step_s": statistics.median(ordered),
        "step_s_low": ordered[round(0.1 * last)],
        "step_s_high": ordered[round(0.9 * last)],
        "steps_timed": float(len(ordered)),
    }
