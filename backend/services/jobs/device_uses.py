"""Device time of jobs: one row per attempt and kind of device, priced when it begins, closed when the attempt ends."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Select, insert, select, update
from sqlalchemy.orm import Session

from backend.db.tables import DeviceUse, Worker
from backend.domain.estimates.prices import DeviceKind
from backend.domain.jobs.gauges import MachineGauges
from backend.domain.training.summary import RunTime
from backend.services.context import Context
from backend.services.serving.prices import current_prices


def open_use(
    session: Session, ctx: Context, job_id: str, attempt: int, *, host: str, device: str | None, machines: int = 1
) -> None:
    """Begin counting the devices of an attempt, those of `host` for each of its machines. `device` lists GPUs as
    CUDA_VISIBLE_DEVICES does; None is the CPU.
    """
    if attempt > 1:
        close_uses(session, job_id, at=ctx.now())
    count = (len(device.split(",")) if device else 1) * machines
    kind: DeviceKind = "gpu" if device else "cpu"
    name = _device_name(session, host, device)
    session.execute(
        insert(DeviceUse).values(
            job_id=job_id,
            attempt=attempt,
            kind=kind,
            device_name=name[:120],
            num_devices=count,
            hour_usd=current_prices(ctx, session).hour_usd(name, kind),
            started_at=ctx.now(),
        )
    )


def close_uses(session: Session, job_id: str, *, at: datetime) -> None:
    """End the open count of a job."""
    session.execute(
        update(DeviceUse).where(DeviceUse.job_id == job_id, DeviceUse.ended_at.is_(None)).values(ended_at=at)
    )


def times_of_jobs(session: Session, job_ids: Collection[str] | Select[str | None]) -> dict[str, RunTime]:
    """Return how long jobs have run, their waits between attempts apart; those that never started are left out."""
    times: dict[str, RunTime] = {}
    query = select(DeviceUse.job_id, DeviceUse.started_at, DeviceUse.ended_at).where(DeviceUse.job_id.in_(job_ids))
    for job_id, started_at, ended_at in session.execute(query):
        time = times.get(job_id, RunTime())
        if ended_at is None:
            times[job_id] = RunTime(time.ended_s, started_at)
        else:
            times[job_id] = RunTime(time.ended_s + (ended_at - started_at).total_seconds(), time.since)
    return times


def _device_name(session: Session, host: str, device: str | None) -> str:
    newest = select(Worker.gauges).where(Worker.host == host).order_by(Worker.heartbeat_at.desc()).limit(1)
    gauges = session.scalar(newest) or MachineGauges()
    if device is None:
        return gauges.cpu_name
    first = device.split(",")[0]
    return next((gpu.name for gpu in gauges.gpus if gpu.index == first), "")
