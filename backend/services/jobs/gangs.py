"""Gangs: jobs of several machines. A worker with room joins one that waits, and the one that completes it claims the
job for all of them in one transaction: a job runs on all of its machines or on none.

Order is that of the queue. A gang that has waited for `gang_wait_s`, or has run before, keeps each machine that becomes
free until it is complete; only the first such gang of a queue does, so two never hold what the other one needs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from backend.db.tables import GangMember, Job, Slot, Worker
from backend.domain.jobs.gangs import (
    DeviceKind,
    DeviceRequest,
    GangPlan,
    GangRequest,
    Machine,
    machines_that_suit,
    plan_gang,
)
from backend.domain.jobs.payloads import TrainPayload
from backend.domain.jobs.records import JobFailure
from backend.domain.jobs.states import Status
from backend.domain.training.config import RunConfig
from backend.errors import InvalidInput
from backend.services.context import Context
from backend.services.jobs.claims import (
    MAX_CANDIDATES,
    Claim,
    GangPart,
    Place,
    StoredPayload,
    changed,
    eligible,
    free_devices,
    take_slots,
)
from backend.services.jobs.device_uses import open_use
from backend.services.jobs.workers import ALIVE_S

MAX_GANGS = 200
"""Waiting gangs that a worker looks at."""
FEWER_AFTER = timedelta(seconds=10)
"""How long a gang that lost a machine waits for another before it continues with fewer."""


@dataclass(frozen=True)
class GangChoice:
    """The gang that a machine joins now, or is kept free for; jobs behind its `place` have to wait."""

    job_id: str
    place: Place
    plan: GangPlan
    joins: bool
    keeps: bool


@dataclass(frozen=True)
class Membership:
    """A machine that waits in a gang for the others, with the GPUs that it holds."""

    job_id: str
    host: str
    owner: str
    device: str | None


@dataclass(frozen=True)
class MemberView:
    """A machine's part in a running job, as the others and the pages see it. `is_alive`: its lease holds."""

    host: str
    number: int
    device: str | None
    stage: str
    address: str | None
    error: JobFailure
    is_alive: bool


def choose_gang(ctx: Context, queue: str, *, host: str, devices: Sequence[str] = ()) -> GangChoice | None:
    """Return the gang of a queue that this machine joins next, or is kept for; None if there is none."""
    now = ctx.now()
    with ctx.db.read() as session:
        waiting = _waiting_gangs(session, queue, now)
        if not waiting:
            return None
        machines, members = _machines(session, queue, now), _members(session, now)
        num_free = len(free_devices(session, host, devices, now))
        keeps_for_one = False
        for job in waiting:
            plan = _plan(job, machines, members[job.id], now)
            if not plan.count:
                continue
            keeps = not keeps_for_one and _may_keep(ctx, job, now)
            keeps_for_one |= keeps
            joined = members[job.id]
            if host not in plan.able or host in joined or len(joined) >= plan.count or not (plan.can_start or keeps):
                continue
            has_room = plan.kind == "cpu" or (host not in plan.reserved and num_free >= job.num_devices)
            if has_room or keeps:
                return GangChoice(job.id, _place(job), plan, joins=has_room, keeps=keeps)
    return None


def choose_placed(ctx: Context, job_id: str, *, host: str, devices: Sequence[str] = ()) -> GangChoice | None:
    """Return the gang that a compute provider has started this machine's worker for, on as many machines as it needs;
    None unless it waits and this machine has the devices that it asks for.
    """
    with ctx.db.read() as session:
        job = session.scalar(select(Job).where(Job.id == job_id, eligible(ctx.now()), Job.num_machines > 1))
        if job is None:
            return None
        plan = _placed_plan(job, host, "gpu" if devices and job.device_request != "cpu" else "cpu")
        if job.device_request == "gpu" and plan.kind == "cpu":
            return None
        return GangChoice(job.id, _place(job), plan, joins=True, keeps=True)


def _placed_plan(job: Job, host: str, kind: DeviceKind) -> GangPlan:
    """Return the plan of a gang whose machines a provider has chosen: this one, and those that it starts beside it."""
    return GangPlan(kind, job.num_machines, able=(host,), idle=(host,))


def join_gang(
    ctx: Context, choice: GangChoice, *, owner: str, host: str, devices: Sequence[str] = ()
) -> Membership | None:
    """Take this machine's room for a gang, and claim the job if that completes it; None if either is gone."""
    now = ctx.now()
    lease = now + timedelta(seconds=ctx.policy.lease_s)
    try:
        with ctx.db.write() as session:
            job = _locked(session, choice.job_id, now)
            if job is None:
                return None
            own = (GangMember.job_id == job.id, GangMember.host == host)
            session.execute(delete(GangMember).where(*own, GangMember.lease_until <= now))  # its worker was lost
            if session.scalar(select(GangMember.host).where(*own)) is not None:
                return None
            free = free_devices(session, host, devices, now)
            device = ",".join(free[: job.num_devices]) if choice.plan.kind == "gpu" else None
            if device is not None and len(free) < job.num_devices:
                return None
            take_slots(session, job.id, host=host, device=device, now=now, lease=lease)
            member = GangMember(job_id=job.id, host=host, owner=owner, device=device, joined_at=now, lease_until=lease)
            session.add(member)
            session.flush()
            _claim_if_complete(session, ctx, job, choice.plan.count, choice.plan.kind, now)
    except IntegrityError:  # another job took a GPU at the same moment (PostgreSQL)
        return None
    return Membership(choice.job_id, host, owner, device)


def await_gang(ctx: Context, member: Membership) -> Claim[StoredPayload] | Membership | None:
    """Extend a machine's wait in a gang; return its claim once the gang is complete, the membership while it waits, or
    None if it is to leave: the job is gone, or others have to be first.
    """
    now = ctx.now()
    with ctx.db.write() as session:
        job = session.scalar(select(Job).where(Job.id == member.job_id).with_for_update())
        own = (GangMember.job_id == member.job_id, GangMember.host == member.host)
        row = session.scalar(select(GangMember).where(*own).with_for_update())
        if job is None or row is None or row.owner != member.owner:
            return None
        if row.attempt is None and job.status == Status.QUEUED:
            plan = _plan_of_member(session, ctx, job, member, now)
            lease = now + timedelta(seconds=ctx.policy.lease_s)
            if plan is None or not _extend_slots(session, member, lease):
                return None
            row.lease_until = lease
            session.flush()
            _claim_if_complete(session, ctx, job, plan.count, plan.kind, now)
            session.refresh(row)
            session.refresh(job)
        if row.attempt is None:
            return member if job.status == Status.QUEUED else None
        if row.attempt != job.attempt or job.status not in (Status.RUNNING, Status.CANCELLING):
            return None
        return _claim_of(session, job, row)


def _plan_of_member(session: Session, ctx: Context, job: Job, member: Membership, now: datetime) -> GangPlan | None:
    """Return where a gang that waits is to run; None if this machine is to leave it."""
    if job.placement:
        return _placed_plan(job, member.host, "gpu" if member.device else "cpu")
    plan = _plan(job, _machines(session, job.queue, now), _members(session, now)[job.id], now)
    if not plan.count or not (plan.can_start or _is_first_to_keep(session, ctx, job, now)):
        return None
    return plan if member.host in plan.able and member.host not in plan.reserved else None


def leave_gang(ctx: Context, member: Membership) -> None:
    """Give back this machine's room in a gang. What it told the others stays until the attempt is over."""
    mine = (GangMember.job_id == member.job_id, GangMember.host == member.host, GangMember.owner == member.owner)
    with ctx.db.write() as session:
        if session.scalar(select(GangMember.host).where(*mine)) is None:  # lapsed, and perhaps joined again since
            return
        session.execute(delete(GangMember).where(*mine, GangMember.attempt.is_(None)))
        unsaid = (*mine, GangMember.stage.in_(["placed", "ready"]))
        session.execute(update(GangMember).where(*unsaid).values(stage="left"))
        session.execute(update(GangMember).where(*mine).values(lease_until=ctx.now()))
        held = (Slot.host == member.host, Slot.job_id == member.job_id)
        session.execute(delete(Slot).where(*held, Slot.device.in_((member.device or "").split(","))))


def list_members(ctx: Context, job_id: str, *, attempt: int | None = None) -> tuple[MemberView, ...]:
    """Return the machines of a job's attempt by number, or of its present one; without those that only wait."""
    with ctx.db.read() as session:
        rows = session.scalars(
            select(GangMember)
            .join(Job, Job.id == GangMember.job_id)
            .where(GangMember.job_id == job_id, GangMember.attempt == (Job.attempt if attempt is None else attempt))
            .order_by(GangMember.number)
        )
        now = ctx.now()
        return tuple(
            MemberView(row.host, row.number or 0, row.device, row.stage, row.address, row.error, row.lease_until > now)
            for row in rows
        )


def plan_config(ctx: Context, config: RunConfig) -> GangPlan:
    """Return where a run over several machines would start now, or what is missing."""
    request = GangRequest(config.devices.nodes, config.devices.per_node, config.device)
    with ctx.db.read() as session:
        return plan_gang(request, _machines(session, "train", ctx.now()))


def describe_gang(ctx: Context, job_id: str) -> str:
    """Say why a job of several machines waits; empty for any other job."""
    now = ctx.now()
    with ctx.db.read() as session:
        job = session.get(Job, job_id)
        if job is None or job.num_machines == 1 or job.placement or job.status != Status.QUEUED:
            return ""
        members = _members(session, now)
        plan = _plan(job, _machines(session, job.queue, now), members[job.id], now)
        waits = sorted(members[job.id])
        return plan.sentence + (f" Kept for it: {', '.join(waits)}." if waits and not plan.problem else "")


def _waiting_gangs(session: Session, queue: str, now: datetime) -> Sequence[Job]:
    return session.scalars(
        select(Job)
        .where(Job.num_machines > 1, eligible(now), Job.queue == queue, Job.placement.is_(None))
        .order_by(Job.priority, Job.created_at, Job.id)
        .limit(MAX_GANGS)
    ).all()


def _may_keep(ctx: Context, job: Job, now: datetime) -> bool:
    """Return whether a gang has waited long enough to keep machines that become free."""
    return job.attempt > 0 or now - job.created_at >= timedelta(seconds=ctx.policy.gang_wait_s)


def _is_first_to_keep(session: Session, ctx: Context, job: Job, now: datetime) -> bool:
    """Return whether a gang may keep machines, and no gang before it that can be placed may."""
    if not _may_keep(ctx, job, now):
        return False
    machines, members = _machines(session, job.queue, now), _members(session, now)
    for other in _waiting_gangs(session, job.queue, now):
        if _may_keep(ctx, other, now) and _plan(other, machines, members[other.id], now).count:
            return other.id == job.id
    return False


def _plan(job: Job, machines: Sequence[Machine], joined: Counter[str], now: datetime) -> GangPlan:
    """Return where a waiting gang can run: those that have joined it count as free."""
    fewer: tuple[int, ...] = ()
    if job.attempt > 0 and now - (job.not_before or job.created_at) >= FEWER_AFTER:
        fewer = _fewer(job)
    request = GangRequest(job.num_machines, job.num_devices, cast("DeviceRequest", job.device_request), fewer)
    return plan_gang(
        request,
        [machine.seen_by(_place(job), job.num_devices if machine.host in joined else None) for machine in machines],
    )


def _place(job: Job) -> Place:
    return job.priority, job.created_at, job.id


def _fewer(job: Job) -> tuple[int, ...]:
    try:
        payload = TrainPayload.read(job.payload)
    except InvalidInput:
        return ()
    return machines_that_suit(payload.config)


def _machines(session: Session, queue: str, now: datetime) -> list[Machine]:
    """Return the machines with a living worker of a queue, by name, with what is free on each and who waits for it."""
    alive = select(Worker).where(Worker.heartbeat_at > now - timedelta(seconds=ALIVE_S)).order_by(Worker.host)
    living = [one for one in session.scalars(alive) if one.slots.get(queue) and not one.gauges.takes_no_jobs]
    workers = {worker.host: worker for worker in living}
    rows = Counter(worker.host for worker in living)
    taken = Counter(session.scalars(select(Slot.host).where(Slot.lease_until > now)))
    running: Counter[str] = Counter()
    gangs = select(GangMember.job_id).where(GangMember.attempt == Job.attempt, GangMember.job_id == Job.id)
    active = (Job.status.in_([Status.RUNNING, Status.CANCELLING]), Job.queue == queue)
    for owner in session.scalars(select(Job.owner).where(*active, ~gangs.exists())):
        running[(owner or "").rsplit("/", 1)[0]] += 1
    for host in session.scalars(select(GangMember.host).where(GangMember.lease_until > now)):
        running[host] += 1
    waiting = _waiting_for_gpus(session, queue, now)
    return [
        Machine(
            host,
            num_gpus=(total := len(worker.devices)),
            free_gpus=(free := total - taken[host]),
            free_slots=worker.slots[queue] - running[host],
            has_twins=rows[host] > 1 or worker.gauges.shares_name,
            first_wait=next((place for place, count in waiting if free < count <= total), None),
        )
        for host, worker in workers.items()
    ]


def _waiting_for_gpus(session: Session, queue: str, now: datetime) -> list[tuple[Place, int]]:
    """Return the waiting jobs of one machine that take GPUs, in order, with how many."""
    rows = session.execute(
        select(Job.priority, Job.created_at, Job.id, Job.num_devices)
        .where(eligible(now), Job.queue == queue, Job.num_machines == 1, Job.placement.is_(None))
        .where(Job.device_request != "cpu")
        .order_by(Job.priority, Job.created_at, Job.id)
        .limit(MAX_CANDIDATES)
    )
    return [((row.priority, row.created_at, row.id), row.num_devices) for row in rows]


def _members(session: Session, now: datetime) -> _Waiting:
    """Return the machines that wait in each gang, by its job."""
    waiting = _Waiting()
    rows = select(GangMember.job_id, GangMember.host).where(GangMember.attempt.is_(None), GangMember.lease_until > now)
    for job_id, host in session.execute(rows):
        waiting.setdefault(job_id, Counter())[host] += 1
    return waiting


class _Waiting(dict[str, Counter[str]]):
    """Hosts by job; none for a job that is not there."""

    def __missing__(self, job_id: str) -> Counter[str]:
        return Counter()


def _locked(session: Session, job_id: str, now: datetime) -> Job | None:
    """Lock a job that waits, so that the machines that join it do so one after the other."""
    return session.scalar(select(Job).where(Job.id == job_id, eligible(now)).with_for_update(of=Job))


def _claim_if_complete(session: Session, ctx: Context, job: Job, count: int, kind: DeviceKind, now: datetime) -> None:
    """Claim a locked job for the first `count` machines that wait for it, if there are as many."""
    waiting = (
        select(GangMember)
        .where(GangMember.job_id == job.id, GangMember.attempt.is_(None), GangMember.lease_until > now)
        .where(GangMember.device.is_(None) if kind == "cpu" else GangMember.device.is_not(None))
        .order_by(GangMember.joined_at, GangMember.host)
        .with_for_update()  # a machine that leaves at this moment is not counted
    )
    members = session.scalars(waiting).all()[:count]
    if len(members) < count:
        return
    lease = now + timedelta(seconds=ctx.policy.lease_s)
    first = members[0]
    session.execute(
        update(Job)
        .where(Job.id == job.id)
        .values(
            status=Status.RUNNING,
            attempt=job.attempt + 1,
            owner=first.owner,
            lease_until=lease,
            device=first.device[:20] if first.device else None,
            error=JobFailure(),
            started_at=job.started_at or now,
            stop_request=None,
        )
        .execution_options(synchronize_session=False)
    )
    session.refresh(job)
    for number, member in enumerate(members):
        member.attempt, member.number, member.stage, member.lease_until = job.attempt, number, "placed", lease
    session.flush()
    open_use(session, ctx, job.id, job.attempt, host=first.host, device=first.device, machines=count)


def _claim_of(session: Session, job: Job, row: GangMember) -> Claim[StoredPayload]:
    mates = select(GangMember.host).where(GangMember.job_id == job.id, GangMember.attempt == job.attempt)
    hosts = tuple(session.scalars(mates.order_by(GangMember.number)))
    return Claim.of(job, owner=row.owner, host=row.host, device=row.device, part=GangPart(row.number or 0, hosts))


def _extend_slots(session: Session, member: Membership, lease: datetime) -> bool:
    """Hold the GPUs of a machine that waits for longer; return whether it still has them all."""
    held = member.device.split(",") if member.device else []
    mine = (Slot.host == member.host, Slot.job_id == member.job_id, Slot.device.in_(held))
    return changed(session, update(Slot).where(*mine).values(lease_until=lease)) == len(held)
