"""Training devices: those of the living workers, or this machine's without a worker."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from backend.domain.estimates.memory import usable_bytes
from backend.domain.estimates.setting import DeviceKind
from backend.domain.jobs.gauges import MachineGauges
from backend.domain.training.config import RunConfig
from backend.infra.devices import read_machine_gauges
from backend.services.context import Context
from backend.services.jobs.workers import WorkerView, list_workers


@dataclass(frozen=True)
class Device:
    """A training device. `name` is the one in measurements; `memory_bytes` is None if unknown."""

    name: str
    kind: DeviceKind
    memory_bytes: int | None

    @property
    def usable_bytes(self) -> int | None:
        """Memory available to a run."""
        return None if self.memory_bytes is None else usable_bytes(self.memory_bytes, self.kind)


def training_workers(ctx: Context) -> tuple[WorkerView, ...]:
    """Return the living workers that serve the queue of training jobs."""
    return tuple(worker for worker in list_workers(ctx) if worker.takes_jobs and "train" in worker.queues)


def list_training_devices(workers: Sequence[WorkerView]) -> list[Device]:
    """Return the training devices, each name once: GPUs before CPUs, then by memory."""
    devices: dict[str, Device] = {}
    for gauges in [worker.gauges for worker in workers if worker.gauges] or [read_machine_gauges()]:
        for device in _devices(gauges):
            devices.setdefault(device.name, device)
    return sorted(devices.values(), key=lambda device: (device.kind != "gpu", -(device.memory_bytes or 0)))


def choose_device(config: RunConfig, workers: Sequence[WorkerView]) -> Device:
    """Return the device that a run would use: a GPU if there is one and the config allows it."""
    devices = list_training_devices(workers)
    gpu = next((device for device in devices if device.kind == "gpu"), None)
    if config.device == "gpu":
        return gpu or Device("a GPU", "gpu", None)
    cpu = next((device for device in devices if device.kind == "cpu"), Device("the CPU", "cpu", None))
    return gpu if gpu is not None and config.device == "auto" else cpu


def find_device(ctx: Context, name: str, kind: DeviceKind) -> Device:
    """Return the device of a name; its memory is unknown if no living worker has it."""
    return next(
        (device for device in list_training_devices(training_workers(ctx)) if device.name == name),
        Device(name, kind, None),
    )


def max_devices(kind: Literal["auto", "cpu", "gpu"], workers: Sequence[WorkerView]) -> int | None:
    """Return the most devices of a kind that one machine has: cores, GPUs, or the more of the two. None for GPUs
    without a worker.
    """
    gpus = max((len(worker.devices) for worker in workers), default=None)
    if kind == "gpu":
        return gpus
    cores = max(
        (worker.gauges.cpu_count for worker in workers if worker.gauges.cpu_count),
        default=os.cpu_count() or 1,
    )
    return cores if kind == "cpu" else max(cores, gpus or 0)


def _devices(gauges: MachineGauges) -> list[Device]:
    devices = [Device(gpu.name, "gpu", gpu.memory_total_bytes) for gpu in gauges.gpus]
    if gauges.cpu_name and gauges.memory_total_bytes:
        devices.append(Device(gauges.cpu_name, "cpu", gauges.memory_total_bytes))
    return devices
