"""Rule by which the machines of a job of several are chosen, and what is missing where there are too few. Pure, so that
the launch page, the job's page and the workers agree.

A gang is placed on all of its machines or on none. The database and the workers' locks are elsewhere
(backend/services/jobs/gangs.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from backend.domain.training.config import RunConfig
from backend.domain.training.execution import keep_global_batch
from backend.domain.wording import plural
from backend.errors import InvalidInput

DeviceKind = Literal["gpu", "cpu"]
DeviceRequest = Literal["auto", "cpu", "gpu"]


@dataclass(frozen=True)
class Machine:
    """A machine with a living worker of a queue: its GPUs, those that are free, and the jobs that it has room for.
    `has_twins`: whether several workers have its name. `first_wait`: the place in the queue of the first job of one
    machine that waits for more of its GPUs than are free.
    """

    host: str
    num_gpus: int
    free_gpus: int
    free_slots: int
    has_twins: bool = False
    first_wait: tuple[int, datetime, str] | None = None
    is_reserved: bool = False

    def seen_by(self, place: tuple[int, datetime, str], num_joined: int | None) -> Machine:
        """Return the machine as a gang at a place of the queue sees it: what it holds itself of a machine that it has
        joined counts as free, and what a job before it waits for is reserved.
        """
        is_reserved = self.first_wait is not None and self.first_wait < place
        if num_joined is None:
            return replace(self, is_reserved=is_reserved)
        free_gpus = self.free_gpus + (num_joined if self.num_gpus else 0)
        return replace(self, free_gpus=free_gpus, free_slots=self.free_slots + 1, is_reserved=is_reserved)


@dataclass(frozen=True)
class GangRequest:
    """The machines that a job asks for, and the GPUs or processes on each. `fewer`: numbers of machines that would do
    where one was lost.
    """

    machines: int
    devices: int
    device: DeviceRequest = "auto"
    fewer: tuple[int, ...] = ()


@dataclass(frozen=True)
class GangPlan:
    """Machines that a job of several would take. `able` machines could hold a part of it, `idle` ones can now; `count`
    is how many it takes, 0 if it can't be placed whatever becomes free. GPUs of `reserved` ones go to a job before it.
    """

    kind: DeviceKind
    count: int
    able: tuple[str, ...]
    idle: tuple[str, ...]
    reserved: tuple[str, ...] = ()
    problem: str = ""

    @property
    def can_start(self) -> bool:
        """Return whether enough machines have room now."""
        return 0 < self.count <= len(self.idle)

    @property
    def sentence(self) -> str:
        """Say where the job would run, or what is missing."""
        if self.problem:
            return self.problem
        if self.can_start:
            return f"Runs on {_list(self.idle[: self.count])}."
        busy, missing = [host for host in self.able if host not in self.idle], self.count - len(self.idle)
        free = f"{_list(self.idle)} {_are(self.idle)} free; " if self.idle else ""
        rest = f"{_list(busy)} {_are(busy)} busy" if missing == len(busy) else f"waits for {missing} of {_list(busy)}"
        return f"Needs {self.count} machines at once: {free}{rest}."


def plan_gang(request: GangRequest, machines: Sequence[Machine]) -> GangPlan:
    """Return where a job would run: on GPUs where enough machines have as many as it asks for, else on the CPU."""
    kinds: tuple[DeviceKind, ...] = ("gpu", "cpu") if request.device == "auto" else (request.device,)
    plans = [_plan(request, kind, machines) for kind in kinds]
    return next(
        (plan for plan in plans if plan.count == request.machines),
        max(plans, key=lambda plan: (plan.count, len(plan.able))),
    )


def _plan(request: GangRequest, kind: DeviceKind, machines: Sequence[Machine]) -> GangPlan:
    if kind == "gpu":
        able = [machine for machine in machines if machine.num_gpus >= request.devices]
        free = [machine for machine in able if machine.free_gpus >= request.devices and machine.free_slots > 0]
        idle = [machine for machine in free if not machine.is_reserved]
    else:  # a machine with GPUs leaves its CPU to those that ask for it
        able = [machine for machine in machines if request.device == "cpu" or not machine.num_gpus]
        idle = [machine for machine in able if machine.free_slots > 0]
    count = next((n for n in (request.machines, *request.fewer) if n <= len(able)), 0)
    names = tuple(machine.host for machine in able)
    return GangPlan(
        kind,
        count,
        able=names,
        idle=tuple(machine.host for machine in idle),
        reserved=tuple(machine.host for machine in able if machine.is_reserved and kind == "gpu"),
        problem="" if count else _what_is_missing(request, kind, names, machines),
    )


def _what_is_missing(request: GangRequest, kind: DeviceKind, able: Sequence[str], machines: Sequence[Machine]) -> str:
    has_gpus = any(machine.num_gpus for machine in machines)
    each = ""
    if kind == "gpu" and (has_gpus or request.device == "gpu"):
        each = f" with {plural(request.devices, 'GPU')} each"
    elif request.device == "auto" and has_gpus:
        each = " without a GPU"
    there = f"only {_list(able)} {_are(able)} there" if able else "none is there"
    missing = plural(request.machines - len(able), "training worker")
    twins = [machine.host for machine in machines if machine.has_twins]
    sentence = f"Needs {request.machines} machines{each} at once: {there}. Start {missing} more."
    if not twins:
        return sentence
    has = "has" if len(twins) == 1 else "have"
    return (
        f"{sentence} Workers of one name count as one machine, and {_list(twins)} {has} several: give each a"
        " ROUNDHOUSE_WORKER_HOST of its own."
    )


def machines_that_suit(config: RunConfig) -> tuple[int, ...]:
    """Return the numbers of machines below that of a config on which a step can have the same sequences, most first. A
    sharded run has none: fewer machines may not hold its shares, and running out of memory would fail it.
    """
    if config.devices.sharding != "ddp":
        return ()
    return tuple(count for count in range(config.devices.nodes - 1, 0, -1) if _can_spread(config, count))


def _can_spread(config: RunConfig, machines: int) -> bool:
    try:
        spread_over(config, machines)
    except InvalidInput:
        return False
    return True


def spread_over(config: RunConfig, machines: int) -> RunConfig:
    """Return a config for another number of machines with the same devices each and the same sequences in a step.

    Raises InvalidInput if the devices can't share them evenly.
    """
    if machines == config.devices.nodes:
        return config
    count = config.devices.per_node * machines
    devices = config.devices.model_copy(update={"nodes": machines, "count": count})
    sequences = config.micro_batch * config.grad_accum_steps * config.devices.count
    return keep_global_batch(config.model_copy(update={"devices": devices}), sequences)


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _list(names: Sequence[str]) -> str:
    shown = [*names[:8], f"{len(names) - 8} more"] if len(names) > 8 else list(names)
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
