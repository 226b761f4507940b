"""Workers: heartbeats, running jobs and machine gauges."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from backend.db.tables import Duty, GangMember, Job, Slot, Worker
from backend.domain.attributes import view_of
from backend.domain.jobs.gauges import MachineGauges
from backend.domain.jobs.states import QUEUE_OF, JobKind, Status
from backend.domain.wording import format_bytes
from backend.services.context import Context

ALIVE_S = 10.0
FORGOTTEN = timedelta(minutes=10)
FULL_SHARE = 8
"""Share of the disk space that no job may eat into, below which a machine takes none."""


@dataclass(frozen=True)
class WorkerView:
    """A worker's part for one queue, as pages see it."""

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

    @property
    def takes_jobs(self) -> bool:
        """True for a living worker that is no older than the database."""
        return self.is_alive and not self.gauges.takes_no_jobs


def beat(
    ctx: Context,
    *,
    name: str,
    host: str,
    pid: int,
    slots: dict[str, int],
    devices: list[str],
    gauges: MachineGauges,
    is_first: bool = True,
) -> bool:
    """Record a worker's heartbeat; return whether another living one has its name. `slots`: how many jobs of each of
    its queues it runs at once. `is_first`: whether it has just started, perhaps after one of its name that has ended.
    """
    now = ctx.now()
    with ctx.db.write() as session:
        worker = session.get(Worker, name)
        if worker is None:
            worker = Worker(name=name, host=host)
            session.add(worker)
        has_twin = not is_first and worker.pid not in (None, pid)
        if has_twin:
            gauges = gauges.model_copy(update={"shares_name": True})
        if worker.pid != pid:
            worker.pid, worker.started_at = pid, now
        worker.slots, worker.devices, worker.gauges, worker.heartbeat_at = slots, devices, gauges, now
    return has_twin


def engines_of_workers(session: Session, ctx: Context) -> frozenset[str] | None:
    """Return the engines of other projects that living workers of replicas can start; None without such a worker."""
    living = select(Worker).where(Worker.heartbeat_at > ctx.now() - timedelta(seconds=ALIVE_S))
    gauges = [worker.gauges for worker in session.scalars(living) if QUEUE_OF[JobKind.REPLICA] in worker.slots]
    return frozenset(engine for one in gauges for engine in one.engines) if gauges else None


def explain_full_disk(ctx: Context, *, host: str) -> str:
    """Return why no worker of this machine may take a job, if hardly anything is left of the disk space that no job may
    eat into. Empty if enough is.
    """
    free, needed = ctx.artifacts.free_bytes(), ctx.policy.keep_free_bytes // FULL_SHARE
    if free >= needed:
        return ""
    return (
        f"The disk of {host} is full ({format_bytes(free)} free): it takes jobs again once {format_bytes(needed)}"
        " are free."
    )


def say_goodbye(ctx: Context, name: str) -> None:
    """Delete the row of a worker that stops by itself: only one that vanishes counts as silent."""
    with ctx.db.write() as session:
        session.execute(delete(Worker).where(Worker.name == name))


def take_duties(ctx: Context, names: Collection[str], *, every_s: float) -> list[str]:
    """Return those of the named duties that this worker is to do now: each is begun once in `every_s`, by whichever
    worker asks first, however many there are.
    """
    now = ctx.now()
    with ctx.db.read() as session:
        begun = dict(session.execute(select(Duty.name, Duty.begun_at).where(Duty.name.in_(names))).all())
    # a beginning in the future is from before a clock was set back
    due = [name for name in names if name not in begun or abs((now - begun[name]).total_seconds()) >= every_s]
    return [name for name in due if _take_duty(ctx, name, begun.get(name), now)]


def _take_duty(ctx: Context, name: str, begun: datetime | None, now: datetime) -> bool:
    """Return whether no other worker took a duty since it was seen to have begun at a time, None: never."""
    try:
        with ctx.db.write() as session:
            if begun is None:
                session.execute(insert(Duty).values(name=name, begun_at=now))
                return True
            taken = update(Duty).where(Duty.name == name, Duty.begun_at == begun).values(begun_at=now)
            return session.execute(taken).rowcount == 1  # type: ignore[attr-defined, no-any-return]
    except IntegrityError:
        return False


def list_workers(ctx: Context) -> list[WorkerView]:
    """Return every known worker, a part for each of its queues, the living first."""
    now = ctx.now()
    running: dict[str, list[tuple[str, str, str | None]]] = defaultdict(list)
    with ctx.db.read() as session:
        held = select(Job.owner, Job.id, Job.title, Job.device).where(
            Job.status.in_([Status.RUNNING, Status.CANCELLING])
        )
        for owner, job_id, title, device in session.execute(held):
            running[(owner or "").split("#")[0]].append((job_id, title, device))
        parts = (
            select(GangMember.owner, Job.id, Job.title, GangMember.device)
            .join(Job, Job.id == GangMember.job_id)
            .where(GangMember.lease_until > now, GangMember.number.is_distinct_from(0))
        )
        for owner, job_id, title, device in session.execute(parts):  # parts on several machines; the first owns the job
            running[owner.split("#")[0]].append((job_id, title, device))
        views = [
            view_of(
                WorkerView,
                worker,
                name=(name := f"{worker.host}/{queue}"),
                queues=(queue,),
                concurrency=slots,
                devices=tuple(worker.devices),
                is_alive=(now - worker.heartbeat_at).total_seconds() < ALIVE_S,
                jobs=tuple(running[name]),
            )
            for worker in session.scalars(select(Worker).order_by(Worker.host, Worker.name))
            for queue, slots in sorted(worker.slots.items())
        ]
    return sorted(views, key=lambda view: not view.is_alive)


def list_slots(ctx: Context) -> list[tuple[str, str, str | None]]:
    """Return (host, device, job id) of every GPU that is held."""
    with ctx.db.read() as session:
        rows = session.scalars(select(Slot).where(Slot.lease_until > ctx.now()))
        return [(slot.host, slot.device, slot.job_id) for slot in rows]


def has_worker(ctx: Context, queue: str) -> bool:
    """Return whether a living worker takes jobs of a queue."""
    return any(worker.takes_jobs and queue in worker.queues for worker in list_workers(ctx))
