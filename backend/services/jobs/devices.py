"""Where training can happen: the devices of the living workers, and this machine's while there is none."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

from backend.domain.estimates.memory import usable_bytes
from backend.domain.estimates.setting import DeviceKind
from backend.domain.training.config import RunConfig
from backend.infra.devices import read_gauges
from backend.services.context import Context
from backend.services.jobs.workers import list_workers


@dataclass(frozen=True)
class Place:
    """A device. `name` is what measurements call it; `memory_bytes` is all it has, None where that is not known."""

    name: str
    kind: DeviceKind
    memory_bytes: int | None

    @property
    def usable_bytes(self) -> int | None:
        """What a run can have of the memory."""
        return None if self.memory_bytes is None else usable_bytes(self.memory_bytes, self.kind)


def list_places(ctx: Context) -> list[Place]:
    """Return the devices that train, each name once, those with most memory first among their kind; GPUs before CPUs."""
    machines = [worker.gauges for worker in list_workers(ctx) if worker.is_alive and "train" in worker.queues and worker.gauges]
    places: dict[str, Place] = {}
    for gauges in machines or [read_gauges()]:
        for place in _places(gauges):
            places.setdefault(place.name, place)
    return sorted(places.values(), key=lambda place: (place.kind != "gpu", -(place.memory_bytes or 0)))


def place_of(ctx: Context, config: RunConfig) -> Place:
    """Return the device that a run would go to: a GPU where there is one and the config allows it."""
    places = list_places(ctx)
    gpu = next((place for place in places if place.kind == "gpu"), None)
    if config.device == "gpu":
        return gpu or Place("a GPU", "gpu", None)
    cpu = next((place for place in places if place.kind == "cpu"), Place("the CPU", "cpu", None))
    return gpu if gpu is not None and config.device == "auto" else cpu


def find_place(ctx: Context, name: str, kind: DeviceKind) -> Place:
    """Return the device of a name, whose memory is not known if no living worker has it."""
    return next((place for place in list_places(ctx) if place.name == name), Place(name, kind, None))


def most_devices(ctx: Context, device: Literal["auto", "cpu", "gpu"]) -> int | None:
    """Return how many devices of a kind one machine that trains has: cores, GPUs, or the more of the two. None where no worker tells."""
    workers = [worker for worker in list_workers(ctx) if worker.is_alive and "train" in worker.queues]
    gpus = max((len(worker.devices) for worker in workers), default=None)
    if device == "gpu":
        return gpus
    cores = max((int(worker.gauges["cpu_count"]) for worker in workers if worker.gauges.get("cpu_count")), default=os.cpu_count() or 1)
    return cores if device == "cpu" else max(cores, gpus or 0)


def _places(gauges: dict[str, Any]) -> list[Place]:
    found = [Place(str(gpu["name"]), "gpu", int(gpu["memory_total_bytes"])) for gpu in gauges.get("gpus", [])]
    if gauges.get("cpu_name") and gauges.get("memory_total_bytes"):
        found.append(Place(str(gauges["cpu_name"]), "cpu", int(gauges["memory_total_bytes"])))
    return found
