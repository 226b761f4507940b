"""Measure a run: memory, step times, utilisation of the device, and of its peak (MFU).

Utilisation and power draw of the device are sampled with the steps' metrics at the cost of reading a clock: on a GPU
from NVIDIA's management library, through torch; on the CPU from this process's CPU time, and from the processor's
energy counter if it is readable (Linux RAPL; by root alone on most systems).

Peak memory is that above the process's baseline before the network was loaded. On a GPU the caching allocator counts.
On the CPU the kernel does: the high-water mark of resident memory, less pages of files (libraries, the token file),
which are not the run's own. Unlike recording every allocation this costs nothing, so every run is measured, and it
includes memory that the C library's allocator retains.

Model FLOPs utilisation (MFU) is the operations that a run's tokens need over the device's peak (arXiv 2204.02311,
appendix B). A GPU's peak comes from a table. A CPU's depends on clock, threads and libraries, so it is measured: the
best of a few matrix products, stored among the artifacts, since a busy machine measures too low.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import platform
import re
import resource
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch

from backend.domain.architectures.cost import count_flops
from backend.domain.architectures.hf_config import read_shape
from backend.domain.estimates.throughput import peak_flops
from backend.domain.jobs.events import Event, MetricsEvent, ProgressEvent
from backend.domain.jobs.results import RunMeasurement
from backend.domain.jobs.states import StopRequest
from backend.domain.training.config import RunConfig
from backend.infra.processes import return_freed_memory
from jobs.modeling.devices import device_kind, device_name, gpu_functions, is_gpu
from jobs.reporter import Reporter

WARM_UP_STEPS = 2
MEMORY_EVERY_S = 1.0


class MeteredReporter(Reporter):
    """A reporter that forwards everything and measures the run: memory at every progress report, time between steps'
    metrics.

    It adds to a step's metrics `mfu`, if `mfu_of_rate` is set, `memory_bytes` once a second, and the device's readings
    from `gauge`. `epoch_sequences` are those that packed rows fill, once they are counted.
    """

    def __init__(self, reporter: Reporter, meter: MemoryMeter, *, gauge: DeviceGauge | None = None) -> None:
        self._reporter, self._meter, self._gauge = reporter, meter, gauge
        self._rates: deque[float] = deque(maxlen=4096)
        self._seconds: deque[float] = deque(maxlen=4096)
        self._steps, self._last, self._memory_at = 0, 0.0, 0.0
        self.mfu_of_rate: Callable[[float], float] | None = None
        self.is_as_launched = True
        """False where a resumed run keeps what its config no longer says: it measures another setting."""
        self.epoch_sequences: int | None = None

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
                # the device's peak was measured on a busy machine, so it is too low for any rate
                self.mfu_of_rate = None
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
        """Return the measurement; None for a run of too few steps, or of another setting than its config's."""
        peak = self._meter.peak_bytes()
        if peak is None or len(self._seconds) < 3 or not self.is_as_launched:
            return None
        return RunMeasurement(
            measured_bytes=peak,
            allocated_bytes=self._meter.allocated_bytes(),
            tokens_per_s=statistics.median(self._rates),
            device=device_name(device),
            device_kind=device_kind(device),
            epoch_sequences=self.epoch_sequences,
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


SAMPLE_EVERY_S = 5.0
RAPL = Path("/sys/class/powercap")


class DeviceGauge:
    """Reads `device_use` (0 to 1, of the GPU or of the cores that this process may use) and `power_w` (of the GPU or
    the processor).
    """

    def __init__(self, device: torch.device, *, rapl: Path = RAPL) -> None:
        self._device = device
        self._counters = sorted(rapl.glob("intel-rapl:[0-9]*/energy_uj")) if not is_gpu(device) else []
        # packages, not their subdomains
        self._counters = [counter for counter in self._counters if counter.parent.name.count(":") == 1]
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
        # no library, no permission, a virtual GPU: drivers raise all kinds of errors, and retrying does not help
        except Exception:
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


STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MAPS, SIZES_OF_MAPS = Path("/proc/self/maps"), Path("/proc/self/smaps")


class MemoryMeter:
    """Peak memory of this process since `begin`, in bytes. Call `sample` often, so later file pages do not count."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._peak: int | None = None
        self._baseline = 0

    def begin(self) -> None:
        """Set the baseline: data and libraries are loaded, the network is not."""
        gc.collect()
        if is_gpu(self._device):
            torch.accelerator.reset_peak_memory_stats(self._device)
        return_freed_memory()  # the network would reuse it, and the peak would miss it
        self._baseline, self._peak = _own_bytes(peak=False), 0
        self.forget_files()

    def forget_files(self) -> None:
        """Leave out of the peak the files that were mapped while they were read; what is held now counts."""
        if self._peak is None:
            return
        with contextlib.suppress(OSError):  # if that is not permitted the mark may be too high
            CLEAR.write_text("5")  # resets the high-water mark (proc(5))
        self.sample()

    def sample(self) -> None:
        """Record the peak so far."""
        if self._peak is not None and not is_gpu(self._device):
            self._peak = max(self._peak, _own_bytes(peak=True) - self._baseline)

    def peak_bytes(self) -> int | None:
        """Return the peak above the baseline, including weights mapped from their file. None before `begin`."""
        if self._peak is None:
            return None
        if is_gpu(self._device):
            return torch.accelerator.max_memory_reserved(self._device)
        self.sample()
        return max(self._peak + _mapped_weight_bytes(), 0)

    def held_bytes(self) -> int | None:
        """Return the bytes now above the baseline; None before `begin`."""
        if self._peak is None:
            return None
        if is_gpu(self._device):
            return torch.accelerator.memory_reserved(self._device)
        return max(_own_bytes(peak=False) - self._baseline, 0)

    def allocated_bytes(self) -> int | None:
        """Return the peak of tensors alone on a GPU; None on the CPU, whose allocator does not count."""
        return torch.accelerator.max_memory_allocated(self._device) if is_gpu(self._device) else None


def _own_bytes(*, peak: bool) -> int:
    """Return resident memory less pages of files; with `peak` its high-water mark."""
    try:
        text = STATUS.read_text()
    except OSError:  # no /proc: the high-water mark of all resident memory (kilobytes; bytes on macOS)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    fields = {name: int(kilobytes) * 1024 for name, kilobytes in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
    if peak:
        return fields["VmHWM"] - fields.get("RssFile", 0) - fields.get("RssShmem", 0)
    return fields.get("RssAnon", fields["VmRSS"])


def _mapped_weight_bytes() -> int:
    """Return the bytes of weights that are mapped from a safetensors file: frozen ones, which nothing writes to."""
    total, is_weights = 0, False
    try:
        if ".safetensors" not in MAPS.read_text():  # read at once, unlike what each of thousands holds
            return 0
        with SIZES_OF_MAPS.open() as maps:
            for line in maps:
                if line[0] in "0123456789abcdef" and "-" in line.split(" ", 1)[0]:
                    is_weights = line.rstrip().endswith(".safetensors")
                elif is_weights and line.startswith("Rss:"):
                    total += int(line.split()[1]) * 1024
                elif is_weights and line.startswith("Anonymous:"):
                    total -= int(line.split()[1]) * 1024
    except OSError:
        return 0
    return total


SIDE, SIDE_OF_MANY, MANY_THREADS = 512, 1024, 5
"""Sides of the matrices that are multiplied, and the number of threads that need the larger one to be busy."""
TRIES, ALIKE = 100, 1.03
FOLDER = "machines"


@dataclass(frozen=True)
class Utilisation:
    """Converts tokens per second to MFU: `flops_per_token` in training, `peak` operations per second of all devices."""

    flops_per_token: float
    peak: float

    def of(self, tokens_per_s: float) -> float:
        """Return the MFU, from 0 to about 1."""
        return tokens_per_s * self.flops_per_token / self.peak


def find_utilisation(model: Any, config: RunConfig, *, device: torch.device, artifacts: Path) -> Utilisation | None:
    """Return the utilisation of a pretraining run; None if the network's operations or the device's peak are unknown.

    None for other objectives, whose steps have passes and padding that their rate does not count.
    """
    if not config.objective.pretrains:
        return None
    network = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    shape = read_shape(network.config.to_dict())
    if shape is None:
        return None
    rank = None if config.method == "full" else config.lora.rank
    flops = count_flops(shape, context=config.context, micro_batch=config.micro_batch, lora_rank=rank).training
    peak = peak_flops(device_name(device)) if is_gpu(device) else matmul_flops(artifacts)
    return None if peak is None else Utilisation(float(flops), peak * config.devices.count)


def matmul_flops(artifacts: Path) -> float:
    """Return the operations per second of fp32 matrix products on this CPU and its threads: the best so far."""
    machine = f"{platform.node()} {device_name(torch.device('cpu'))} {torch.get_num_threads()}"
    file = artifacts / FOLDER / f"{hashlib.sha256(machine.encode()).hexdigest()[:16]}.json"
    known = 0.0
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = float(json.loads(file.read_text())["matmul_flops_per_s"])
    best = _measure_matmul()
    if best > known:
        with contextlib.suppress(OSError):  # without write permission later runs measure from scratch
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps({"machine": machine, "matmul_flops_per_s": best}) + "\n")
            os.replace(partial, file)
    return max(best, known)


@torch.no_grad()
def _measure_matmul() -> float:
    """Return the rate of the fastest product. Three that nothing interrupted and that take equally long were not
    disturbed, and further ones would take as long.
    """
    side = SIDE_OF_MANY if torch.get_num_threads() >= MANY_THREADS else SIDE
    left, right = (torch.ones(side, side) for _ in range(2))
    seconds: list[float] = []
    undisturbed: list[float] = []
    while len(seconds) < TRIES and sum(one < ALIKE * min(seconds) for one in undisturbed) < 3:
        interruptions, started = count_interruptions(), time.perf_counter()
        torch.mm(left, right)
        seconds.append(time.perf_counter() - started)
        if count_interruptions() == interruptions:
            undisturbed.append(seconds[-1])
    return 2 * side**3 / min(seconds)


def count_interruptions() -> int:
    """Return how often other processes have taken a core from this one."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
