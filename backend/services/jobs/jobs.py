"""Jobs: create, claim, renew, stop, end. The database decides; the broker only wakes.

Every write on behalf of a running attempt goes through `renew` or `end_job`, which match id, attempt and owner. A write from an
older attempt finds no row and raises Fenced, so a process that comes back from the dead spoils nothing.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, Literal, TypeVar, cast

from sqlalchemy import and_, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from backend.db.tables import Job, LogLine, Slot
from backend.domain.jobs.payloads import Payload, TrainingPayload, read_payload
from backend.domain.jobs.states import ACTIVE, QUEUE_OF, TERMINAL, JobKind, Status, StopRequest, restart_delay_s
from backend.errors import Conflict, InvalidInput, NotFound
from backend.services.context import Context, Person, require_builder

LOOKED_THROUGH = 200  # queued jobs that a worker with GPUs looks at for one that fits what is free


class Fenced(Exception):
    """This attempt no longer owns the job: its lease ran out and another attempt took over, or the job ended."""


StoredPayload = dict[str, Any]
"""A payload as the row holds it, before its kind's class has read it."""
P_co = TypeVar("P_co", covariant=True)
Q = TypeVar("Q")


@dataclass(frozen=True)
class Claim(Generic[P_co]):
    """A worker's hold on one attempt of a job. `device` is its GPUs as CUDA_VISIBLE_DEVICES spells them, None on the CPU."""

    job_id: str
    attempt: int
    owner: str
    kind: JobKind
    payload: P_co
    device: str | None
    events_offset: int
    restarts_forever: bool
    host: str

    def with_payload(self, payload: Q) -> Claim[Q]:
        """Return the claim with another payload."""
        return Claim(**{**self.__dict__, "payload": payload})


@dataclass(frozen=True)
class JobView:
    """A job as pages and the command line see it."""

    id: str
    kind: str
    queue: str
    title: str
    status: Status
    priority: int
    attempt: int
    device: str | None
    owner: str | None
    progress: dict[str, Any]
    error: dict[str, Any]
    result: dict[str, Any]
    stop_request: str | None
    depends_on: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def is_active(self) -> bool:
        """Whether the job is queued, running or being stopped."""
        return self.status in ACTIVE


def view(job: Job) -> JobView:
    """Copy a row into a view that outlives the session."""
    return JobView(
        id=job.id,
        kind=job.kind,
        queue=job.queue,
        title=job.title,
        status=Status(job.status),
        priority=job.priority,
        attempt=job.attempt,
        device=job.device,
        owner=job.owner,
        progress=dict(job.progress or {}),
        error=dict(job.error or {}),
        result=dict(job.result or {}),
        stop_request=job.stop_request,
        depends_on=job.depends_on_id,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
    )


def add_job(
    session: Session,
    ctx: Context,
    payload: Payload,
    *,
    title: str,
    priority: int = 5,
    device: Literal["auto", "cpu", "gpu"] = "auto",
    idempotency_key: str | None = None,
    depends_on: str | None = None,
    restarts_forever: bool = False,
    created_by: str | None = None,
) -> Job:
    """Insert a queued job inside the caller's transaction. Call `wake(ctx, job.queue)` after the commit."""
    job = Job(
        kind=payload.job_kind.value,
        queue=QUEUE_OF[payload.job_kind],
        title=title[:200],
        payload=payload.dump(),
        priority=priority,
        device_request=device,
        idempotency_key=idempotency_key,
        depends_on_id=depends_on,
        restarts_forever=restarts_forever,
        max_attempts=ctx.policy.max_attempts,
        created_by=created_by,
        created_at=ctx.now(),
    )
    session.add(job)
    session.flush()
    return job


def wake(ctx: Context, queue: str) -> None:
    """Tell one worker of a queue that there is work. A broker that is down is no error: the sweep sends again."""
    ctx.queue.publish(queue)


def get_job(ctx: Context, job_id: str) -> JobView:
    """Return one job. Raises NotFound."""
    with ctx.db.read() as session:
        job = session.get(Job, job_id)
        if job is None:
            raise NotFound(f"There is no job {job_id!r}.")
        return view(job)


def eligible(now: datetime) -> Any:
    """Queued, its time has come, and what it depends on is finished."""
    before = aliased(Job)
    done = select(before.id).where(before.id == Job.depends_on_id, before.status == Status.FINISHED).exists()
    return and_(
        Job.status == Status.QUEUED,
        or_(Job.not_before.is_(None), Job.not_before <= now),
        or_(Job.depends_on_id.is_(None), done),
    )


def claim_next(ctx: Context, queue: str, *, owner: str, host: str, devices: tuple[str, ...] = ()) -> Claim[StoredPayload] | None:
    """Take the best eligible job of a queue, and as many free GPUs with it as the job wants.

    On a machine without devices, jobs that ask for `gpu` stay queued, and so do jobs of more GPUs than the machine has. A job that
    waits for more GPUs than are free keeps those behind it from taking them, or it would wait for ever. Returns None when nothing
    can be taken.
    """
    now = ctx.now()
    try:
        with ctx.db.write() as session:
            free = _free_devices(session, host, devices, now)
            wanted = ["cpu"] + (["auto", "gpu"] if free else []) + ([] if devices else ["auto"])
            query = (
                select(Job)
                .where(eligible(now), Job.queue == queue, Job.device_request.in_(wanted))
                .order_by(Job.priority, Job.created_at, Job.id)
                .with_for_update(skip_locked=True, of=Job)
            )
            if not devices:
                candidate = session.scalars(query.limit(1)).first()
                return _take(session, ctx, candidate, owner=owner, host=host, device=None) if candidate else None
            for candidate in session.scalars(query.limit(LOOKED_THROUGH)):
                count = 0 if candidate.device_request == "cpu" else num_devices(candidate)
                if count <= len(free):
                    return _take(session, ctx, candidate, owner=owner, host=host, device=",".join(free[:count]) or None)
                if count <= len(devices):
                    free = []  # kept for this one
            return None
    except IntegrityError:  # another worker of this host took the slot in the same moment (PostgreSQL)
        return None


def num_devices(job: Job) -> int:
    """Return how many GPUs of one machine a job takes where it takes any: those of its run's config, otherwise one."""
    try:
        payload = read_payload(JobKind(job.kind), job.payload)
    except InvalidInput:
        return 1  # it fails with its reason as soon as it is taken
    return payload.config.devices.per_node if isinstance(payload, TrainingPayload) else 1


def claim_job(ctx: Context, job_id: str, *, owner: str, host: str) -> Claim[StoredPayload] | None:
    """Take one named job, on the CPU, for the command line where no worker runs. None if somebody else has it."""
    with ctx.db.write() as session:
        job = session.scalars(select(Job).where(Job.id == job_id, eligible(ctx.now()))).first()
        return _take(session, ctx, job, owner=owner, host=host, device=None) if job else None


def _free_devices(session: Session, host: str, devices: tuple[str, ...], now: datetime) -> list[str]:
    held = set(session.scalars(select(Slot.device).where(Slot.host == host, Slot.lease_until > now)))
    return [device for device in devices if device not in held]


def _take(session: Session, ctx: Context, job: Job, *, owner: str, host: str, device: str | None) -> Claim[StoredPayload] | None:
    now = ctx.now()
    lease = now + timedelta(seconds=ctx.policy.lease_s)
    result = session.execute(
        update(Job)
        .where(Job.id == job.id, Job.status == Status.QUEUED)
        .values(
            status=Status.RUNNING,
            attempt=Job.attempt + 1,
            owner=owner,
            lease_until=lease,
            device=device[:20] if device else None,  # for the eye; the slots are what counts
            error={},
            started_at=func.coalesce(Job.started_at, now),
            stop_request=None,
        )
        .execution_options(synchronize_session=False)
    )
    if result.rowcount != 1:  # type: ignore[attr-defined]
        return None
    for each in device.split(",") if device else ():
        stale = session.get(Slot, (host, each))
        if stale is not None:
            session.delete(stale)
            session.flush()
        session.add(Slot(host=host, device=each, job_id=job.id, lease_until=lease))
    session.flush()
    session.refresh(job)
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
    )


def renew(session: Session, ctx: Context, claim: Claim[Any], **values: Any) -> None:
    """Extend the lease of an attempt, writing `values` with it. Raises Fenced if the attempt no longer owns the job."""
    lease = ctx.now() + timedelta(seconds=ctx.policy.lease_s)
    result = session.execute(
        update(Job)
        .where(
            Job.id == claim.job_id,
            Job.attempt == claim.attempt,
            Job.owner == claim.owner,
            Job.status.in_([Status.RUNNING, Status.CANCELLING]),
        )
        .values(lease_until=lease, **values)
        .execution_options(synchronize_session=False)
    )
    if result.rowcount != 1:  # type: ignore[attr-defined]
        raise Fenced(f"attempt {claim.attempt} of job {claim.job_id} is over")
    if claim.device is not None:
        wanted = claim.device.split(",")
        held = session.execute(
            update(Slot).where(Slot.host == claim.host, Slot.device.in_(wanted), Slot.job_id == claim.job_id).values(lease_until=lease)
        )
        if held.rowcount != len(wanted):  # type: ignore[attr-defined]
            raise Fenced(f"job {claim.job_id} lost its slot {claim.device}")


def stop_request(ctx: Context, claim: Claim[Any]) -> tuple[StopRequest | None, datetime | None]:
    """Return what the user asked of a running job, and when."""
    with ctx.db.read() as session:
        row = session.execute(select(Job.stop_request, Job.stop_requested_at).where(Job.id == claim.job_id)).one()
        return cast("StopRequest | None", row[0]), row[1]


def end_job(
    session: Session,
    ctx: Context,
    claim: Claim[Any],
    status: Status,
    *,
    result: dict[str, Any] | None = None,
    error: dict[str, Any] | None = None,
) -> None:
    """Write the terminal status of an attempt once, and free its slot. Raises Fenced."""
    renew(session, ctx, claim)
    now = ctx.now()
    session.execute(
        update(Job)
        .where(Job.id == claim.job_id, Job.attempt == claim.attempt)
        .values(
            status=status,
            result=result or {},
            error=error or {},
            finished_at=now,
            lease_until=None,
            owner=None,
            device=None,
        )
        .execution_options(synchronize_session=False)
    )
    release_slot(session, claim)


def requeue(session: Session, ctx: Context, claim: Claim[Any], *, error: dict[str, Any], lasted_s: float) -> None:
    """Put a replica back in its queue with backoff; a start that held for a minute forgives the failures before it.

    A stop request that came after the process had ended is carried out: otherwise the replica would start again, and nobody would stop it.
    """
    job = _let_go(session, ctx, claim)
    job.error = error
    if job.status == Status.QUEUED:
        job.lost = 0 if lasted_s > 60 else job.lost + 1
        job.not_before = ctx.now() + timedelta(seconds=restart_delay_s(job.lost))


def give_back(ctx: Context, claim: Claim[Any]) -> None:
    """Put an interrupted job back in its queue, as its worker's shutdown is no fault of the job. A stop request is carried out."""
    with ctx.db.write() as session, contextlib.suppress(Fenced):
        _let_go(session, ctx, claim)


def _let_go(session: Session, ctx: Context, claim: Claim[Any]) -> Job:
    """End an attempt that has not ended its job: queued again, or cancelled if somebody asked for that. Raises Fenced."""
    renew(session, ctx, claim)
    job = session.get_one(Job, claim.job_id, populate_existing=True)
    cancelling = job.status == Status.CANCELLING
    job.status = Status.CANCELLED if cancelling else Status.QUEUED
    job.finished_at = ctx.now() if cancelling else None
    job.owner, job.lease_until, job.device = None, None, None
    release_slot(session, claim)
    return job


def release_slot(session: Session, claim: Claim[Any]) -> None:
    """Give a claim's GPUs back."""
    for device in claim.device.split(",") if claim.device else ():
        slot = session.get(Slot, (claim.host, device))
        if slot is not None and slot.job_id == claim.job_id:
            session.delete(slot)


def request_stop(ctx: Context, job_id: str, how: StopRequest = "cancel") -> JobView:
    """Ask a job to stop. A queued job is cancelled at once; a running one is told and becomes `cancelling`.

    Asking again with `cancel` after `stop_and_save` hardens the request. Raises NotFound, or Conflict if the job has ended.
    """
    with ctx.db.write() as session:
        job = session.get(Job, job_id)
        if job is None:
            raise NotFound(f"There is no job {job_id!r}.")
        if Status(job.status) in TERMINAL:
            raise Conflict(f"This job is already {job.status}.")
        ask_to_stop(job, how, now=ctx.now())
        session.flush()
        return view(job)


def ask_to_stop(job: Job, how: StopRequest, *, now: datetime) -> None:
    """Cancel a job that waits; tell one that runs. The job has not ended."""
    if job.status in (Status.QUEUED, Status.PAUSED):
        job.status, job.finished_at, job.stop_request = Status.CANCELLED, now, how
    else:
        job.status, job.stop_request, job.stop_requested_at = Status.CANCELLING, how, now


def stop_job(ctx: Context, job_id: str, *, person: Person) -> JobView:
    """Ask a job to stop on a person's behalf. Raises NotAllowed, NotFound, or Conflict if it has ended."""
    require_builder(person)
    return request_stop(ctx, job_id)


def list_jobs(ctx: Context, *, statuses: tuple[Status, ...] = (), queue: str | None = None, limit: int = 100) -> list[JobView]:
    """Return jobs, newest first."""
    with ctx.db.read() as session:
        query = select(Job).order_by(Job.created_at.desc()).limit(limit)
        if statuses:
            query = query.where(Job.status.in_(statuses))
        if queue:
            query = query.where(Job.queue == queue)
        return [view(job) for job in session.scalars(query)]


def read_log(ctx: Context, job_id: str, *, last: int = 200) -> list[str]:
    """Return the last lines of a job's log, oldest first. Where an attempt begins, a line says so."""
    with ctx.db.read() as session:
        query = select(LogLine.attempt, LogLine.text).where(LogLine.job_id == job_id).order_by(LogLine.id.desc()).limit(last)
        rows = list(reversed(session.execute(query).all()))
    lines: list[str] = []
    attempt: int | None = None
    for number, text in rows:
        if attempt is not None and number != attempt:
            lines.append(f"--- attempt {number} ---")
        attempt = number
        lines.append(text)
    return lines
