"""A reporter that also measures the run: memory, step times, utilisation."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable

import torch

from backend.domain.jobs.events import Event, MetricsEvent, ProgressEvent
from backend.domain.jobs.results import RunMeasurement
from backend.domain.jobs.states import StopRequest
from jobs.modeling.devices import device_kind, device_name
from jobs.reporter import Reporter
from jobs.training.telemetry.device_use import DeviceGauge
from jobs.training.telemetry.memory import MemoryMeter

WARM_UP_STEPS = 2
MEMORY_EVERY_S = 1.0


class MeteredReporter(Reporter):
    """A reporter that forwards everything and measures the run: memory at every progress report, time between steps'
    metrics.

    It adds to a step's metrics `mfu`, if `mfu_of_rate` is set, `memory_bytes` once a second, and the device's readings
    from `gauge`.
    """

    def __init__(self, reporter: Reporter, meter: MemoryMeter, *, gauge: DeviceGauge | None = None) -> None:
        self._reporter, self._meter, self._gauge = reporter, meter, gauge
        self._rates: deque[float] = deque(maxlen=4096)
        self._seconds: deque[float] = deque(maxlen=4096)
        self._steps, self._last, self._memory_at = 0, 0.0, 0.0
        self.mfu_of_rate: Callable[[float], float] | None = None

    def emit(self, event: Event) -> None:
        """Forward an event, with measurements."""
        if isinstance(event, ProgressEvent):
            self._meter.sample()
        if isinstance(event, MetricsEvent) and (rate := event.values.get("tok_per_sec")) is not None:
            event = event.model_copy(update={"values": {**event.values, **self._after_step(rate)}})
        self._reporter.emit(event)

    def _after_step(self, rate: float) -> dict[str, float]:
        """Record the time of a step, and return the device's utilisation."""
        now = time.perf_counter()
        self._steps += 1
        if self._steps > WARM_UP_STEPS:
            self._rates.append(rate)
            self._seconds.append(now - self._last)
        self._last = now
        return self._of_device(now, rate)

    def _of_device(self, now: float, rate: float) -> dict[str, float]:
        read = {} if self._gauge is None else self._gauge.read()
        if self.mfu_of_rate is not None:
            if (mfu := self.mfu_of_rate(rate)) > 1:
                self.mfu_of_rate = (
                    None  # the device's peak was measured on a busy machine, so it is too low for any rate
                )
            else:
                read["mfu"] = mfu
        if now - self._memory_at >= MEMORY_EVERY_S and (held := self._meter.held_bytes()) is not None:
            self._memory_at = now
            read["memory_bytes"] = float(held)
        return read

    def should_stop(self) -> StopRequest | None:
        """Return the user's stop request, if any."""
        return self._reporter.should_stop()

    def measurement(self, device: torch.device) -> RunMeasurement | None:
        """Return the measurement; None for a run of too few steps."""
        peak = self._meter.peak_bytes()
        if peak is None or len(self._seconds) < 3:
            return None
        return RunMeasurement(
            measured_bytes=peak,
            allocated_bytes=self._meter.allocated_bytes(),
            tokens_per_s=statistics.median(self._rates),
            device=device_name(device),
            device_kind=device_kind(device),
            **step_times(list(self._seconds)),
        )


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
