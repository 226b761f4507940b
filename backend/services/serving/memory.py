"""Memory needed by a deployment, and free memory of serving machines."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from sqlalchemy.orm import Session

from backend.db.tables import Checkpoint
from backend.domain.serving.drafts import with_draft
from backend.domain.serving.memory import ReplicaMemory, replica_memory
from backend.domain.serving.precision import Precision
from backend.infra.hosts import machine_name
from backend.services.checkpoints.networks import read_network_shape
from backend.services.context import Context
from backend.services.jobs.workers import WorkerView, list_workers

MAX_BASES = 8
MAX_16_BIT_BYTES = 2.2
"""Bytes of weights on disk per parameter below which a checkpoint has none of 32 bits, but for a few."""


@dataclass(frozen=True)
class FreeMemory:
    """Free memory of the serving machine that has most: RAM, or of one GPU where the machine has GPUs."""

    host: str
    device: Literal["cpu", "cuda"]
    free_bytes: int

    @property
    def machine(self) -> str:
        """The machine as readers on this one know it."""
        return machine_name(self.host)


@dataclass(frozen=True)
class DeploymentMemory:
    """Memory that a replica needs, and free memory. None if unknown: network of unknown size, no serving worker."""

    replica: ReplicaMemory | None
    free: FreeMemory | None

    def fits(self, num_replicas: int) -> bool | None:
        """Return whether the replicas fit into the free memory; on GPUs each takes one GPU. None if unknown."""
        if self.replica is None or self.free is None:
            return None
        return self.replica.of_replicas(num_replicas if self.free.device == "cpu" else 1) <= self.free.free_bytes


def deployment_memory(
    ctx: Context,
    checkpoint_id: str,
    *,
    precision: Precision = "float32",
    draft_id: str | None = None,
    context: int | None = None,
) -> DeploymentMemory:
    """Return needed and free memory, to compare before a deployment; with that of a draft, which runs on CPUs only."""
    free = most_free(list_workers(ctx))
    with ctx.db.read() as session:
        checkpoint = session.get_one(Checkpoint, checkpoint_id)
        parameters, folder = _all_parameters(session, checkpoint), checkpoint.folder
        draft = session.get(Checkpoint, draft_id) if draft_id else None
        is_adapter = checkpoint.is_adapter
    if parameters is None:
        return DeploymentMemory(None, free)
    shape = read_network_shape(ctx, folder) if folder else None
    device = free.device if free else "cpu"
    file_bytes = math.inf if is_adapter or not folder else _file_bytes(ctx.artifacts.sizes(folder))
    is_16_bit = file_bytes < MAX_16_BIT_BYTES * parameters
    memory = replica_memory(
        parameters=parameters, shape=shape, device=device, precision=precision, is_16_bit=is_16_bit, context=context
    )
    if draft is not None and device == "cpu":
        drafting = read_network_shape(ctx, draft.folder) if draft.folder else None
        memory = with_draft(memory, parameters=draft.parameters or 0, shape=drafting)
    return DeploymentMemory(memory, free)


def most_free(workers: list[WorkerView]) -> FreeMemory | None:
    """Return the most free memory among living workers of the queue `serve`."""
    serving = [
        free
        for worker in workers
        if worker.is_alive and "serve" in worker.queues and (free := _free_of(worker)) is not None
    ]
    return max(serving, key=lambda free: free.free_bytes, default=None)


def _free_of(worker: WorkerView) -> FreeMemory | None:
    free = [gpu.memory_total_bytes - gpu.memory_used_bytes for gpu in worker.gauges.gpus if gpu.index in worker.devices]
    if free:
        return FreeMemory(worker.host, "cuda", max(free))
    total = worker.gauges.memory_total_bytes
    return FreeMemory(worker.host, "cpu", total - worker.gauges.memory_used_bytes) if total else None


def _file_bytes(sizes: dict[str, int]) -> float:
    """Return the bytes of a checkpoint's weights by those of its files; infinity where there are none."""
    return sum(size for name, size in sizes.items() if name.endswith(".safetensors") and "/" not in name) or math.inf


def _all_parameters(session: Session, checkpoint: Checkpoint | None) -> int | None:
    """Return the parameters that are loaded: of an adapter, those of the bases under it too."""
    parameters = 0
    for _ in range(MAX_BASES):
        if checkpoint is None or checkpoint.parameters is None:
            return None
        parameters += checkpoint.parameters
        if not checkpoint.is_adapter:
            return parameters
        checkpoint = session.get(Checkpoint, checkpoint.parent_id) if checkpoint.parent_id else None
    return None
