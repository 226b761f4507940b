"""Claims: a worker's hold on one attempt of a job, from taking it to ending it.

Every write on behalf of an attempt goes through `renew` or `end_job`, which match id, attempt and owner. A write from
an older attempt matches no row and raises Fenced.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Generic, TypeVar, cast

from sqlalchemy import and_, case, delete, func, insert, literal, or_, select, tuple_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from backend.db.tables import GangMember, Job, Slot
from backend.domain.jobs.records import JobFailure, JobResult
from backend.domain.jobs.states import QUEUE_OF, JobKind, Status, StopRequest, restart_delay_s
from backend.domain.serving.engines import SERVERS
from backend.services.context import Context
from backend.services.jobs.device_uses import close_uses, open_use
from backend.services.jobs.jobs import add_log_line

FIRST_CANDIDATES, MAX_CANDIDATES = 16, 200
"""Queued jobs that a worker with GPUs examines for one that fits its free GPUs: usually, and at most."""
StoredPayload = dict[str, Any]
"""A payload as stored in the row, before its kind's class has read it."""
Place = tuple[int, datetime, str]
"""A job's place in its queue: priority, time, id."""
P_co = TypeVar("P_co", covariant=True)
Q = TypeVar("Q")


class Fenced(Exception):
    """This attempt no longer owns the job: its lease ran out and another attempt took over, or the job ended."""


@dataclass(frozen=True)
class GangPart:
    """A machine's part in an attempt of a job of several machines: its number, and the names of all in order. Machine 0
    owns the job.
    """

    number: int
    hosts: tuple[str, ...]


@dataclass(frozen=True)
class Claim(Generic[P_co]):
    """A worker's hold on one attempt of a job. `device` lists its GPUs as CUDA_VISIBLE_DEVICES does, None on the
    CPU. With a `part` it is one machine's of several, whose other claims are of the same attempt.
    """

    job_id: str
    attempt: int
    owner: str
    kind: JobKind
    payload: P_co
    device: str | None
    events_offset: int
    restarts_forever: bool
    host: str
    part: GangPart | None = None

    @staticmethod
    def of(
        job: Any, *, owner: str, host: str, device: str | None, part: GangPart | None = None
    ) -> Claim[StoredPayload]:
        """Return the claim on a job's row as it is."""
        return Claim(
            job_id=job.id,
            attempt=job.attempt,
            owner=owner,
            kind=JobKind(job.kind),
            payload=dict(job.payload),
            device=device,
            events_offset=job.events_offset,
            restarts_forever=job.restarts_forever,
            host=host,
            part=part,
        )

    def with_payload(self, payload: Q) -> Claim[Q]:
        """Return the claim with another payload."""
        return Claim(**{**self.__dict__, "payload": payload})


def eligible(now: datetime) -> Any:
    """Return the condition that a job is queued, its backoff is over, and the job it depends on is finished."""
    return and_(
        Job.status == Status.QUEUED, or_(Job.not_before.is_(None), Job.not_before <= now), _has_no_open_dependency()
    )


@cache
def _has_no_open_dependency() -> Any:
    before = aliased(Job)
    done = select(before.id).where(before.id == Job.depends_on_id, before.status == Status.FINISHED).exists()
    return or_(Job.depends_on_id.is_(None), done)


def claim_next(
    ctx: Context,
    queue: str,
    *,
    owner: str,
    host: str,
    devices: tuple[str, ...] = (),
    engines: Collection[str] = tuple(SERVERS),
    job_id: str | None = None,
    before: Place | None = None,
) -> Claim[StoredPayload] | None:
    """Claim the first eligible job of a queue, with the GPUs that it needs; None if there is none that fits. A replica
    whose engine is not among `engines`, those that this machine can start, stays queued. Jobs that are placed on a
    compute provider are left to the workers that it starts, each for one `job_id`. Jobs of several machines are joined
    instead (backend.services.jobs.gangs); `before` is the place of one that this machine is kept for.

    On a machine without GPUs, jobs that request `gpu` stay queued, and so do jobs of more GPUs than the machine has. A
    job that waits for more GPUs than are free reserves those that become free, or smaller jobs behind it would starve
    it.
    """
    for _ in range(len(devices) + 1):
        try:
            with ctx.db.write() as session:
                return _claim_fitting(
                    session,
                    ctx,
                    queue,
                    owner=owner,
                    host=host,
                    devices=devices,
                    lacks=set(SERVERS) - set(engines),
                    job_id=job_id,
                    before=before,
                )
        except IntegrityError:  # another worker of this host took the GPU at the same moment (PostgreSQL)
            continue
    return None


def _claim_fitting(
    session: Session,
    ctx: Context,
    queue: str,
    *,
    owner: str,
    host: str,
    devices: tuple[str, ...],
    lacks: Collection[str],
    job_id: str | None,
    before: Place | None,
) -> Claim[StoredPayload] | None:
    now = ctx.now()
    slots = _slots_of(session, host) if devices else []
    free = _not_held(devices, slots, now)
    requests = ["cpu"] + (["auto", "gpu"] if free else []) + ([] if devices else ["auto"])
    waiting = (
        select(Job.id, Job.device_request, Job.num_devices)
        .where(eligible(now), Job.queue == queue, Job.device_request.in_(requests), Job.num_machines == 1)
        .where(Job.placement.is_(None) if job_id is None else Job.id == job_id)
        .order_by(Job.priority, Job.created_at, Job.id)
    )
    if before is not None:
        waiting = waiting.where(tuple_(Job.priority, Job.created_at, Job.id) < tuple_(*before))
    if lacks and queue == QUEUE_OF[JobKind.REPLICA]:
        waiting = waiting.where(func.coalesce(Job.payload["engine"].as_string(), "").not_in(lacks))
    if not devices:
        lock = waiting.with_only_columns(Job.id).limit(1).with_for_update(skip_locked=True, of=Job)
        return _take(session, ctx, lock.scalar_subquery(), owner=owner, host=host, device=None)
    has_lapsed = any(lease <= now for _, lease in slots)
    for limit in (FIRST_CANDIDATES, MAX_CANDIDATES):
        # Read without locks: a worker that locked what it only looks at would hide it from all others.
        candidates = session.execute(waiting.limit(limit)).all()
        fitting = _fitting(candidates, num_free=len(free), num_devices=len(devices))
        if first := next(iter(fitting), None):  # usually free: taken by its key
            device = ",".join(free[: fitting[first]]) or None
            claim = _take(session, ctx, _if_free(first), owner=owner, host=host, device=device, has_lapsed=has_lapsed)
            if claim is not None:
                return claim
        if (chosen := _lock_any(session, fitting)) is not None:
            device = ",".join(free[: fitting[chosen]]) or None
            return _take(session, ctx, chosen, owner=owner, host=host, device=device, has_lapsed=has_lapsed)
        if len(candidates) < limit:
            return None
    return None


def _fitting(candidates: Sequence[Any], *, num_free: int, num_devices: int) -> dict[str, int]:
    """Return the jobs, in order, that the free GPUs of a machine suffice for, each with its number of GPUs. Behind one
    that waits for more, GPUs are reserved for it.
    """
    fitting: dict[str, int] = {}
    for candidate, request, num_requested in candidates:
        count = 0 if request == "cpu" else num_requested
        if count <= num_free:
            fitting[candidate] = count
        elif count <= num_devices:
            num_free = 0
    return fitting


def _if_free(job_id: str) -> Any:
    """Return the id of a job, which is locked, as a query: nothing if another worker takes it just now."""
    queued = select(Job.id).where(Job.id == job_id, Job.status == Status.QUEUED)
    return queued.with_for_update(skip_locked=True).scalar_subquery()


def _lock_any(session: Session, fitting: Collection[str]) -> str | None:
    """Lock the first of these jobs that is still queued and that no other worker takes just now."""
    if not fitting:
        return None
    queued = select(Job.id).where(Job.status == Status.QUEUED, Job.id.in_(fitting))
    in_order = queued.order_by(Job.priority, Job.created_at, Job.id).limit(1)
    return session.scalar(in_order.with_for_update(skip_locked=True))


def lapsed_claim(job: Job) -> Claim[StoredPayload]:
    """Return the claim of a running job's attempt whose lease has lapsed, to tidy up after it."""
    return Claim.of(job, owner=job.owner or "", host="", device=job.device)


def claim_job(ctx: Context, job_id: str, *, owner: str, host: str) -> Claim[StoredPayload] | None:
    """Claim one job by id, on the CPU; None if it is not eligible. The command line uses it where no worker runs."""
    with ctx.db.write() as session:
        here = (Job.id == job_id, Job.placement.is_(None), Job.num_machines == 1)
        first = session.scalar(select(Job.id).where(*here, eligible(ctx.now())))
        return _take(session, ctx, first, owner=owner, host=host, device=None) if first else None


def free_devices(session: Session, host: str, devices: Collection[str], now: datetime) -> list[str]:
    """Return the GPUs of a machine that no job holds."""
    return _not_held(devices, _slots_of(session, host), now)


def _slots_of(session: Session, host: str) -> Sequence[Any]:
    """Return the GPUs of a machine that jobs hold or held, each with its lease."""
    return session.execute(select(Slot.device, Slot.lease_until).where(Slot.host == host)).all()


def _not_held(devices: Collection[str], slots: Sequence[Any], now: datetime) -> list[str]:
    taken = {device for device, lease in slots if lease > now}
    return [device for device in devices if device not in taken]


def _take(
    session: Session,
    ctx: Context,
    chosen: Any,
    *,
    owner: str,
    host: str,
    device: str | None,
    has_lapsed: bool = True,
) -> Claim[StoredPayload] | None:
    now = ctx.now()
    lease = now + timedelta(seconds=ctx.policy.lease_s)
    job = session.execute(
        update(Job)
        .where(Job.id == chosen, Job.status == Status.QUEUED)
        .values(
            status=Status.RUNNING,
            attempt=Job.attempt + 1,
            owner=owner,
            lease_until=lease,
            device=device[:20] if device else None,  # for display; the slots are authoritative
            # a replica shows why it restarts until it is ready
            error=case((Job.restarts_forever, Job.error), else_=literal(JobFailure(), Job.error.type)),
            started_at=func.coalesce(Job.started_at, now),
            stop_request=None,
        )
        .returning(Job.id, Job.attempt, Job.kind, Job.payload, Job.events_offset, Job.restarts_forever)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if job is None:
        return None
    take_slots(session, job.id, host=host, device=device, now=now, lease=lease, has_lapsed=has_lapsed)
    open_use(session, ctx, job.id, job.attempt, host=host, device=device)
    return Claim.of(job, owner=owner, host=host, device=device)


def take_slots(
    session: Session,
    job_id: str,
    *,
    host: str,
    device: str | None,
    now: datetime,
    lease: datetime,
    has_lapsed: bool = True,
) -> None:
    """Hold the GPUs of a machine for a job. Raises IntegrityError if another job holds one. `has_lapsed`: whether
    leases of the machine may have lapsed.
    """
    if device:
        taken = device.split(",")
        if has_lapsed:
            session.execute(delete(Slot).where(Slot.host == host, Slot.device.in_(taken), Slot.lease_until <= now))
        rows = [{"host": host, "device": each, "job_id": job_id, "lease_until": lease} for each in taken]
        session.execute(insert(Slot), rows)


def renew(session: Session, ctx: Context, claim: Claim[Any], **values: Any) -> None:
    """Extend the lease of an attempt, writing `values` with it. Raises Fenced if the attempt no longer owns the job.

    Of several machines, the first extends the job's; each extends its own part while the attempt lasts.
    """
    lease = ctx.now() + timedelta(seconds=ctx.policy.lease_s)
    attempt = (
        Job.id == claim.job_id,
        Job.attempt == claim.attempt,
        Job.status.in_([Status.RUNNING, Status.CANCELLING]),
    )
    if claim.part is None or claim.part.number == 0:
        owned = update(Job).where(*attempt, Job.owner == claim.owner).values(lease_until=lease, **values)
        is_ours = changed(session, owned) == 1
    else:
        is_ours = session.scalar(select(Job.id).where(*attempt)) is not None
    if not is_ours:
        raise Fenced(f"attempt {claim.attempt} of job {claim.job_id} is over")
    if (
        claim.part is not None
        and changed(session, update(GangMember).where(*_row(claim)).values(lease_until=lease)) != 1
    ):
        raise Fenced(f"{claim.host} is no longer one of the machines of job {claim.job_id}")
    if claim.device is not None:
        devices = claim.device.split(",")
        here = (Slot.host == claim.host, Slot.device.in_(devices), Slot.job_id == claim.job_id)
        if changed(session, update(Slot).where(*here).values(lease_until=lease)) != len(devices):
            raise Fenced(f"job {claim.job_id} lost its slot {claim.device}")


def _row(claim: Claim[Any]) -> tuple[Any, ...]:
    """Return the condition of a claim's row among the members of a gang."""
    return (
        GangMember.job_id == claim.job_id,
        GangMember.host == claim.host,
        GangMember.owner == claim.owner,
        GangMember.attempt == claim.attempt,
    )


def change_part(session: Session, claim: Claim[Any], **values: Any) -> None:
    """Write values into a claim's row among the members of a gang, if it is still there."""
    session.execute(update(GangMember).where(*_row(claim)).values(**values))


def changed(session: Session, statement: Any) -> int:
    """Return the number of rows that an update changed."""
    result = session.execute(statement.execution_options(synchronize_session=False))
    return int(result.rowcount)  # type: ignore[attr-defined]


def stop_request(ctx: Context, claim: Claim[Any]) -> tuple[StopRequest | None, datetime | None]:
    """Return the pending stop request of a running job, and its time."""
    with ctx.db.read() as session:
        row = session.execute(select(Job.stop_request, Job.stop_requested_at).where(Job.id == claim.job_id)).one()
        return cast("StopRequest | None", row[0]), row[1]


def is_stopping(session: Session, claim: Claim[Any]) -> bool:
    """Return whether a running job is asked to stop."""
    return session.scalar(select(Job.status).where(Job.id == claim.job_id)) == Status.CANCELLING


def end_job(
    session: Session,
    ctx: Context,
    claim: Claim[Any],
    status: Status,
    *,
    result: JobResult | None = None,
    error: JobFailure | None = None,
) -> None:
    """Write the terminal status of an attempt, and free its slots. Raises Fenced."""
    renew(session, ctx, claim)
    now = ctx.now()
    session.execute(
        update(Job)
        .where(Job.id == claim.job_id, Job.attempt == claim.attempt)
        .values(
            status=status,
            result=result.dump() if result else {},
            error=error or JobFailure(),
            finished_at=now,
            lease_until=None,
            owner=None,
            device=None,
        )
        .execution_options(synchronize_session=False)
    )
    release_slot(session, claim)
    close_uses(session, claim.job_id, at=now)


def requeue_lost(session: Session, ctx: Context, claim: Claim[Any], *, error: JobFailure, counts: bool) -> Status:
    """Queue a job again whose other machine is lost, or fail it with the error if that has happened too often; return
    its status. `counts`: whether it counts as a loss. Raises Fenced.
    """
    job = _let_go(session, ctx, claim)
    if job.status == Status.QUEUED:
        job.lost += counts
        if job.lost >= job.max_attempts:
            job.status, job.finished_at, job.error = Status.FAILED, ctx.now(), error
    return Status(job.status)


def requeue(session: Session, ctx: Context, claim: Claim[Any], *, error: JobFailure, lasted_s: float) -> None:
    """Queue a replica again with backoff, which is reset after a process that lasted a minute. A stop request that
    arrived after the process had ended cancels the job, or the replica would be restarted.
    """
    job = _let_go(session, ctx, claim)
    job.error = error
    if job.status == Status.QUEUED:
        job.lost = 0 if lasted_s > 60 else job.lost + 1
        job.not_before = ctx.now() + timedelta(seconds=restart_delay_s(job.lost))


def give_back(ctx: Context, claim: Claim[Any]) -> None:
    """Requeue a job whose worker shuts down, without counting the attempt; cancel it if a stop was requested."""
    with ctx.db.write() as session, contextlib.suppress(Fenced):
        _let_go(session, ctx, claim)
        stopped = f"The worker {claim.owner} was stopped, and gave the job back."
        add_log_line(session, ctx, claim.job_id, stopped, attempt=claim.attempt)


def _let_go(session: Session, ctx: Context, claim: Claim[Any]) -> Job:
    """End an attempt but not its job, which is queued again, or cancelled if that was requested. Raises Fenced."""
    renew(session, ctx, claim)
    job = session.get_one(Job, claim.job_id, populate_existing=True)
    cancelling = job.status == Status.CANCELLING
    job.status = Status.CANCELLED if cancelling else Status.QUEUED
    job.finished_at = ctx.now() if cancelling else None
    job.owner, job.lease_until, job.device = None, None, None
    if claim.part is not None:  # it starts to wait for another machine now
        job.not_before = ctx.now()
    release_slot(session, claim)
    close_uses(session, claim.job_id, at=ctx.now())
    return job


def release_slot(session: Session, claim: Claim[Any]) -> None:
    """Free the GPUs of a claim."""
    if claim.device:
        mine = (Slot.host == claim.host, Slot.job_id == claim.job_id, Slot.device.in_(claim.device.split(",")))
        session.execute(delete(Slot).where(*mine))
