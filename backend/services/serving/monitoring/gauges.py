"""Gauges of replicas, workers and queues as they are now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, or_, select

from backend.db.tables import Alert, Deployment, Endpoint, Job, Replica
from backend.domain.jobs.gauges import MachineGauges, ReplicaLoad
from backend.domain.jobs.states import Status
from backend.services.context import Context
from backend.services.jobs.workers import WorkerView, list_workers
from backend.services.serving.endpoints import replica_numbers
from backend.services.serving.monitoring.rollups import GaugeValue
from backend.services.serving.replicas import STABLE

EVENTS_LAST = timedelta(minutes=10)
"""Time for which the end of a run counts as an alert."""


@dataclass(frozen=True)
class ReplicaGauges:
    """One replica of a deployment that is not stopped, and what its process takes of `host`. `variant` is stable, or
    the id of the deployment of a canary or shadow. `number` counts the replicas that its revision ever had.
    """

    endpoint_id: str
    endpoint: str
    replica_id: str
    is_ready: bool
    load: ReplicaLoad
    variant: str = STABLE
    role: str = STABLE
    revision: int = 1
    status: str = ""
    url: str | None = None
    host: str = ""
    device: str | None = None
    number: int = 1


@dataclass(frozen=True)
class LiveGauges:
    """All gauges. `jobs` counts open jobs by queue and status, `alerts` open alerts, and runs that ended lately, by
    kind and severity.
    """

    replicas: tuple[ReplicaGauges, ...]
    workers: tuple[WorkerView, ...]
    jobs: tuple[tuple[str, str, int], ...]
    alerts: tuple[tuple[str, str, int], ...] = ()


def read_live(ctx: Context) -> LiveGauges:
    """Return the gauges of all replicas and workers."""
    with ctx.db.read() as session:
        rows = session.execute(
            select(Endpoint.id, Endpoint.name, Deployment, Replica, Job)
            .join(Deployment, Deployment.id == Replica.deployment_id)
            .join(Endpoint, Endpoint.id == Deployment.endpoint_id)
            .outerjoin(Job, Job.id == Replica.job_id)
            .where(Deployment.stopped_at.is_(None), Replica.status != "dead")
            .order_by(Endpoint.name, Deployment.revision, Job.created_at, Job.id)
        ).all()
        open_jobs = select(Job.queue, Job.status, func.count()).where(
            Job.status.in_([Status.QUEUED, Status.RUNNING, Status.CANCELLING])
        )
        jobs = tuple(
            (queue, status, count)
            for queue, status, count in session.execute(open_jobs.group_by(Job.queue, Job.status))
        )
        lately = Alert.kind.startswith("run_") & (Alert.opened_at > ctx.now() - EVENTS_LAST)
        counted = select(Alert.kind, Alert.severity, func.count()).where(or_(Alert.resolved_at.is_(None), lately))
        alerts = tuple(
            (kind, severity, count)
            for kind, severity, count in session.execute(counted.group_by(Alert.kind, Alert.severity))
        )
        numbers = replica_numbers(session, (row[2].id for row in rows))
    now = ctx.now()
    replicas = tuple(_replica(*row, now=now, number=numbers[row[3].id]) for row in rows)
    return LiveGauges(replicas, tuple(list_workers(ctx)), jobs, alerts)


def live_values(live: LiveGauges) -> list[GaugeValue]:
    """Return the gauges that are kept over time: per endpoint and per machine."""
    values: list[GaugeValue] = []
    for endpoint_id in sorted({replica.endpoint_id for replica in live.replicas}):
        members = [replica for replica in live.replicas if replica.endpoint_id == endpoint_id]
        values += _values(f"endpoint:{endpoint_id}", members)
        variants = sorted({replica.variant for replica in members})
        for variant in variants if len(variants) > 1 else ():
            values += _values(
                f"variant:{endpoint_id}:{variant}", [replica for replica in members if replica.variant == variant]
            )
    hosts = {worker.host: worker.gauges for worker in live.workers if worker.is_alive and worker.gauges}
    for host, gauges in sorted(hosts.items()):
        values += [GaugeValue(f"host:{host}"[:120], name, value) for name, value in host_ratios(gauges).items()]
    return values


def _values(subject: str, members: Sequence[ReplicaGauges]) -> list[GaugeValue]:
    values = [
        GaugeValue(subject, "running", sum(replica.load.running for replica in members)),
        GaugeValue(subject, "waiting", sum(replica.load.waiting for replica in members)),
        GaugeValue(subject, "replicas_ready", sum(replica.is_ready for replica in members)),
    ]
    ratios = [replica.load.cache_ratio for replica in members if replica.load.cache_ratio is not None]
    values += [GaugeValue(subject, "cache_ratio", max(ratios))] if ratios else []
    for name in ("cpu_cores", "memory_bytes", "gpu_memory_bytes"):
        known = [float(value) for replica in members if (value := getattr(replica.load, name)) is not None]
        values += [GaugeValue(subject, name, sum(known))] if known else []
    return values


def host_ratios(gauges: MachineGauges) -> dict[str, float]:
    """Return the used shares of a machine's CPU, memory, GPUs and GPU memory; unreported ones are left out."""
    ratios = {}
    if gauges.cpu_percent is not None:
        ratios["cpu_ratio"] = gauges.cpu_percent / 100
    if gauges.memory_total_bytes:
        ratios["memory_ratio"] = gauges.memory_used_bytes / gauges.memory_total_bytes
    busy = [gpu.utilisation_percent / 100 for gpu in gauges.gpus if gpu.utilisation_percent is not None]
    if busy:
        ratios["gpu_ratio"] = sum(busy) / len(busy)
    if gauges.gpus:
        ratios["gpu_memory_ratio"] = sum(gpu.memory_used_bytes for gpu in gauges.gpus) / sum(
            gpu.memory_total_bytes for gpu in gauges.gpus
        )
    return ratios


def _replica(
    endpoint_id: str,
    name: str,
    deployment: Deployment,
    replica: Replica,
    job: Job | None,
    *,
    now: datetime,
    number: int,
) -> ReplicaGauges:
    # a model on another server has no process: its status is its last check's
    is_alive = job is None or (job.lease_until is not None and job.lease_until > now)
    return ReplicaGauges(
        endpoint_id=endpoint_id,
        endpoint=name,
        replica_id=replica.id,
        is_ready=is_alive and replica.status == "ready",
        load=replica.gauges if is_alive else ReplicaLoad(),
        variant=STABLE if deployment.role == STABLE else deployment.id,
        role=deployment.role,
        revision=deployment.revision,
        status=replica.status if is_alive or replica.status == "starting" else "lost",
        url=replica.url,
        # the name of a worker's slot begins with its machine; empty while no worker holds the job
        host="another server" if job is None else (job.owner or "").partition("/")[0],
        device=None if job is None else job.device,
        number=number,
    )
