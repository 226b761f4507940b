"""Device time of jobs: one row per attempt and kind of device, priced when it begins, closed when the attempt ends."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from backend.db.tables import DeviceUse, Job, Worker
from backend.domain.estimates.prices import DeviceKind
from backend.domain.jobs.gauges import MachineGauges
from backend.services.context import Context
from backend.services.serving.costs.prices import current_prices


def open_use(session: Session, ctx: Context, job: Job, *, host: str, device: str | None, machines: int = 1) -> None:
    """Begin counting the devices of an attempt, those of `host` for each of its machines. `device` lists GPUs as
    CUDA_VISIBLE_DEVICES does; None is the CPU.
    """
    close_uses(session, job.id, at=ctx.now())
    count = (len(device.split(",")) if device else 1) * machines
    kind: DeviceKind = "gpu" if device else "cpu"
    name = _device_name(session, host, device)
    session.add(
        DeviceUse(
            job_id=job.id,
            attempt=job.attempt,
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


def _device_name(session: Session, host: str, device: str | None) -> str:
    newest = select(Worker.gauges).where(Worker.host == host).order_by(Worker.heartbeat_at.desc()).limit(1)
    gauges = session.scalar(newest) or MachineGauges()
    if device is None:
        return gauges.cpu_name
    first = device.split(",")[0]
    return next((gpu.name for gpu in gauges.gpus if gpu.index == first), "")
