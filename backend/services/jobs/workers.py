"""Workers: heartbeats, running jobs and machine gauges."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, select

from backend.db.tables import Job, Slot, Worker
from backend.domain.attributes import view_of
from backend.domain.jobs.gauges import MachineGauges
from backend.domain.jobs.states import Status
from backend.services.context import Context

ALIVE_S = 10.0
FORGOTTEN = timedelta(minutes=10)


@dataclass(frozen=True)
class WorkerView:
    """A worker as pages see it."""

    name: str
    host: str
    pid: int
    queues: tuple[str, ...]
    concurrency: int
    devices: tuple[str, ...]
    gauges: MachineGauges
    started_at: datetime
    heartbeat_at: datetime
    is_alive: bool
    jobs: tuple[tuple[str, str, str | None], ...]  # (job id, title, device)


def beat(
    ctx: Context,
    *,
    name: str,
    host: str,
    pid: int,
    queues: list[str],
    concurrency: int,
    devices: list[str],
    gauges: MachineGauges,
) -> None:
    """Record a worker's heartbeat; delete workers silent for ten minutes."""
    with ctx.db.write() as session:
        worker = session.get(Worker, name)
        if worker is None or worker.pid != pid:
            if worker is not None:
                session.delete(worker)
                session.flush()
            worker = Worker(name=name, host=host, pid=pid, queues=queues, started_at=ctx.now())
            session.add(worker)
        worker.queues, worker.concurrency, worker.devices, worker.gauges = queues, concurrency, devices, gauges
        worker.heartbeat_at = ctx.now()
        session.execute(delete(Worker).where(Worker.heartbeat_at < ctx.now() - FORGOTTEN))


def say_goodbye(ctx: Context, names: list[str]) -> None:
    """Delete the rows of workers that stop by themselves: only those that vanish count as silent."""
    with ctx.db.write() as session:
        session.execute(delete(Worker).where(Worker.name.in_(names)))


def list_workers(ctx: Context) -> list[WorkerView]:
    """Return every known worker, the living first."""
    now = ctx.now()
    with ctx.db.read() as session:
        running = session.scalars(select(Job).where(Job.status.in_([Status.RUNNING, Status.CANCELLING]))).all()
        views = [
            view_of(
                WorkerView,
                w,
                queues=tuple(w.queues),
                devices=tuple(w.devices),
                is_alive=(now - w.heartbeat_at).total_seconds() < ALIVE_S,
                jobs=tuple((j.id, j.title, j.device) for j in running if (j.owner or "").split("#")[0] == w.name),
            )
            for w in session.scalars(select(Worker).order_by(Worker.host, Worker.name))
        ]
    return sorted(views, key=lambda w: not w.is_alive)


def list_slots(ctx: Context) -> list[tuple[str, str, str | None]]:
    """Return (host, device, job id) of every GPU that is held."""
    with ctx.db.read() as session:
        rows = session.scalars(select(Slot).where(Slot.lease_until > ctx.now()))
        return [(slot.host, slot.device, slot.job_id) for slot in rows]


def has_worker(ctx: Context, queue: str) -> bool:
    """Return whether a living worker serves a queue."""
    return any(worker.is_alive and queue in worker.queues for worker in list_workers(ctx))
