"""Replicas of endpoints: brought step by step to what deployments ask for, the addresses of ready ones, events of
their processes, and deletion of the prepared weights that none starts from any more. Each step is an idempotent
transaction.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import event, exists, func, select
from sqlalchemy.orm import Session, aliased

from backend.db.tables import Checkpoint, Deployment, Endpoint, Job, Replica
from backend.domain.jobs.events import GaugeEvent, ReadyEvent
from backend.domain.jobs.gauges import ReplicaReport
from backend.domain.jobs.payloads import ReplicaPayload, require_folder
from backend.domain.jobs.records import JobFailure
from backend.domain.jobs.results import ReplicaResult
from backend.domain.jobs.states import QUEUE_OF, TERMINAL, JobKind, Status, StopRequest
from backend.domain.serving.deployment import RoutingPolicy
from backend.domain.serving.prepared import FOLDER
from backend.domain.serving.rollout import Count, RolloutStep, next_step
from backend.domain.serving.upstream import Upstream
from backend.services.context import Context
from backend.services.jobs.claims import Claim
from backend.services.jobs.jobs import add_job, ask_to_stop, lock_job, wake
from backend.services.serving.endpoints import (
    adapters_of,
    describe_restarts,
    endpoints_of_aliases,
    replica_numbers,
    served_adapters,
)

STABLE, CANARY, SHADOW = "stable", "canary", "shadow"
ALIVE = ("starting", "ready")


def advance(session: Session, ctx: Context, endpoint_id: str) -> None:
    """Take an endpoint's next step: start, cancel and drain replicas, and close deployments that have none left."""
    endpoint = session.scalars(select(Endpoint).where(Endpoint.id == endpoint_id).with_for_update()).one()
    active = active_deployments(session, endpoint_id)
    stable = [deployment for deployment in active if deployment.role == STABLE]
    for canary in active:
        if canary.role != STABLE:
            _apply(session, ctx, endpoint, canary, older=[])
    if stable:
        _apply(session, ctx, endpoint, stable[-1], older=stable[:-1])


def active_deployments(session: Session, endpoint_id: str) -> Sequence[Deployment]:
    """Return the deployments of an endpoint that are not stopped, oldest first."""
    query = select(Deployment).where(Deployment.endpoint_id == endpoint_id, Deployment.stopped_at.is_(None))
    return session.scalars(query.order_by(Deployment.revision)).all()


def retire(session: Session, ctx: Context, deployment: Deployment, *, how: StopRequest = "drain") -> None:
    """Mark a deployment as stopped, and end its replicas: with `drain` as soon as their open answers have ended."""
    deployment.stopped_at = ctx.now()
    for replica in _replicas(session, [deployment]):
        end_replica(session, ctx, replica, how=how)


def end_replica(session: Session, ctx: Context, replica: Replica, *, how: StopRequest = "drain") -> None:
    """Take a replica's traffic away and end its job."""
    job = lock_job(session, replica.job_id) if replica.job_id is not None else None  # first, as its worker does
    replica.status = "draining" if replica.status == "ready" and job is not None else "dead"
    if job is not None and Status(job.status) not in TERMINAL:
        ask_to_stop(job, how, now=ctx.now())


def _apply(
    session: Session, ctx: Context, endpoint: Endpoint, current: Deployment, *, older: Sequence[Deployment]
) -> None:
    new, old = _replicas(session, [current]), _replicas(session, older)
    upstream = current.config.upstream
    current.num_replicas = 1 if upstream else current.num_replicas
    step = next_step(_count(new), _count(old), target=current.num_replicas, surge=current.config.surge)
    leaving = sorted(new, key=_order_of_leaving)[: step.drop] + _choose_old(old, step)
    for replica in leaving:
        end_replica(session, ctx, replica)
    if step.add and upstream is not None:
        session.add(Replica(deployment_id=current.id, url=upstream.url, internal_token=""))
        session.flush()
    elif step.add:
        checkpoint = session.get_one(Checkpoint, current.checkpoint_id)
        if checkpoint.deleted_at is None and checkpoint.folder is not None:
            for _ in range(step.add):
                _add_replica(session, ctx, current, checkpoint, name=endpoint.name)
            _wake_after_commit(session, ctx, step.add)
    staying = {replica.deployment_id for replica in old if replica not in leaving}
    for deployment in older:
        if deployment.id not in staying and (new or step.add):
            deployment.stopped_at = ctx.now()


def _choose_old(old: Sequence[Replica], step: RolloutStep) -> list[Replica]:
    starting = [replica for replica in old if replica.status == "starting"]
    ready = sorted((replica for replica in old if replica.status == "ready"), key=_order_of_leaving)
    return starting[: step.cancel_old] + ready[: step.drain_old]


def _order_of_leaving(replica: Replica) -> tuple[bool, int]:
    """Replicas that start leave first, then those with the fewest open requests."""
    return replica.status == "ready", replica.gauges.running


def _replicas(session: Session, deployments: Sequence[Deployment]) -> list[Replica]:
    ids = [deployment.id for deployment in deployments]
    return (
        list(session.scalars(select(Replica).where(Replica.deployment_id.in_(ids), Replica.status.in_(ALIVE))))
        if ids
        else []
    )


def _count(replicas: Sequence[Replica]) -> Count:
    ready = sum(replica.status == "ready" for replica in replicas)
    return Count(starting=len(replicas) - ready, ready=ready)


def _add_replica(
    session: Session,
    ctx: Context,
    deployment: Deployment,
    checkpoint: Checkpoint,
    *,
    name: str,
) -> None:
    options = deployment.config
    token = secrets.token_urlsafe(24)
    draft = session.get(Checkpoint, options.draft) if options.draft else None
    if options.engine == "auto" and options.adapters:
        options = options.replace(engine="roundhouse")  # the only engine with adapters
    payload = ReplicaPayload(
        checkpoint=require_folder(checkpoint.folder, what="checkpoint"),
        name=name,
        internal_token=token,
        keep_free_bytes=ctx.policy.keep_free_bytes,
        draft=draft.folder if draft is not None and draft.deleted_at is None else None,
        **options.model_dump(include=set(ReplicaPayload.model_fields) - {"draft"}),
    )
    job = add_job(
        session,
        ctx,
        payload,
        title=f"{name}, replica of revision {deployment.revision}",
        priority=3,
        restarts_forever=True,
        device=options.device,
        created_by=deployment.created_by,
    )
    session.add(Replica(deployment_id=deployment.id, job_id=job.id, internal_token=token))
    session.flush()


def _wake_after_commit(session: Session, ctx: Context, count: int) -> None:
    def send(_: Session) -> None:
        for _number in range(count):
            wake(ctx, QUEUE_OF[JobKind.REPLICA])

    event.listen(session, "after_commit", send, once=True)


def advance_endpoints(ctx: Context) -> None:
    """Take the next step of every endpoint whose replicas are not what its deployments ask for."""
    alive = (
        select(func.count()).where(Replica.deployment_id == Deployment.id, Replica.status.in_(ALIVE)).scalar_subquery()
    )
    others = aliased(Deployment)
    is_replacing = exists().where(
        others.endpoint_id == Deployment.endpoint_id,
        others.stopped_at.is_(None),
        others.role == STABLE,
        others.revision < Deployment.revision,
    )
    query = select(Deployment.endpoint_id).where(
        Deployment.stopped_at.is_(None),
        (alive != Deployment.num_replicas) | ((Deployment.role == STABLE) & is_replacing),
    )
    with ctx.db.read() as session:
        unsettled = set(session.scalars(query))
    for endpoint_id in sorted(unsettled):
        with ctx.db.write() as session:
            advance(session, ctx, endpoint_id)


def has_canary(ctx: Context) -> bool:
    """Return whether any endpoint has a canary."""
    with ctx.db.read() as session:
        query = select(Deployment.id).where(Deployment.role == CANARY, Deployment.stopped_at.is_(None)).limit(1)
        return session.scalar(query) is not None


@dataclass(frozen=True)
class Target:
    """A replica for requests. `variant` is `stable`, or the id of a canary that gets `percent` of the requests."""

    replica_id: str
    url: str
    internal_token: str
    variant: str = STABLE
    percent: float = 0.0
    policy: str = RoutingPolicy.LEAST_OUTSTANDING
    upstream: Upstream | None = None
    adapter: str | None = None  # its folder, where requests are answered by an adapter
    checkpoint: str = ""  # with the precision and the engine that it is served by

    @property
    def fingerprint(self) -> str:
        """Return a name of the weights and the arithmetic behind an answer."""
        return "fp_" + hashlib.sha256(f"{self.checkpoint} {self.adapter}".encode()).hexdigest()[:12]


def ready_targets(ctx: Context, *, canaries: bool = False, with_lapsed: bool = False) -> dict[str, list[Target]]:
    """Return the ready replicas by endpoint, adapter and alias; deployed endpoints without one map to an empty list. A
    replica counts only while its job's lease is valid, so one on a dead machine is left out; another server has none.
    Canaries are included on request, and those with a lapsed lease for the moments after an outage of the database, in
    which no worker could renew one.
    """
    with ctx.db.read() as session:
        active = session.execute(
            select(Endpoint.name, Deployment.config)
            .join(Deployment, Deployment.endpoint_id == Endpoint.id)
            .where(Deployment.stopped_at.is_(None))
        ).all()
        targets: dict[str, list[Target]] = {
            adapter.model: [] for name, config in active for adapter in adapters_of(name, config)
        }
        targets |= {name: [] for name, _ in active}
        endpoints = {name for name, _ in active}
        rows = session.execute(
            select(Endpoint.name, Replica, Deployment)
            .join(Deployment, Deployment.id == Replica.deployment_id)
            .join(Endpoint, Endpoint.id == Deployment.endpoint_id)
            .outerjoin(Job, Job.id == Replica.job_id)
            .where(
                Deployment.stopped_at.is_(None),
                Replica.status == "ready",
                Replica.url.is_not(None),
                Replica.job_id.is_(None)
                | (
                    (Job.status == Status.RUNNING)
                    & (Job.lease_until > (datetime.min.replace(tzinfo=UTC) if with_lapsed else ctx.now()))
                ),
            )
            .order_by(Deployment.revision)
        ).all()
        policies = {name: deployment.config.policy for name, _, deployment in rows}
        for name, replica, deployment in rows:
            upstream = deployment.config.upstream
            if deployment.role == STABLE:
                target = Target(
                    replica.id, str(replica.url), replica.internal_token, policy=policies[name], upstream=upstream
                )
            elif canaries and deployment.role == CANARY:
                target = Target(
                    replica.id,
                    str(replica.url),
                    replica.internal_token,
                    deployment.id,
                    deployment.traffic.percent,
                    policies[name],
                    upstream,
                )
            else:
                continue
            served_by = (deployment.checkpoint_id, deployment.config.precision, deployment.config.engine)
            target = replace(target, checkpoint=" ".join(map(str, served_by)))
            targets[name].append(target)
            for adapter in adapters_of(name, deployment.config):
                if adapter.model not in endpoints:
                    targets[adapter.model].append(replace(target, adapter=adapter.folder))
        targets |= {model: targets[adapter.model] for model, adapter in served_adapters(session).items()}
        return targets | {
            alias: targets[name] for alias, name in endpoints_of_aliases(session).items() if name in targets
        }


def record_ready(session: Session, ctx: Context, claim: Claim[ReplicaPayload], event: ReadyEvent) -> None:
    """Store the address of a ready replica, and take its endpoint's next step."""
    if (replica := _replica_of(session, claim)) is None or replica.status not in ALIVE:
        return
    replica.status, replica.url, replica.ready_at = "ready", event.url, ctx.now()
    session.get_one(Job, claim.job_id).error = JobFailure()
    deployment = session.get_one(Deployment, replica.deployment_id)
    if event.precision_check is not None:
        deployment.config = deployment.config.model_copy(update={"precision_check": event.precision_check})
    if claim.attempt > 1:
        number = replica_numbers(session, [deployment.id])[replica.id]
        text = f"replica {number} {describe_restarts(claim.attempt - 1)}"
        deployment.traffic = deployment.traffic.with_event(text, ctx.now(), subject=replica.id)
    session.flush()
    advance(session, ctx, deployment.endpoint_id)


def record_gauge(session: Session, ctx: Context, claim: Claim[ReplicaPayload], event: GaugeEvent) -> None:
    """Store a replica's gauges."""
    if (replica := _replica_of(session, claim)) is None:
        return
    replica.gauges = ReplicaReport(**event.model_dump(exclude={"type", "time"}))


def record_end(
    session: Session, ctx: Context, claim: Claim[ReplicaPayload], _result: ReplicaResult | None = None
) -> None:
    """Mark a replica whose process ended: dead if it was to end, otherwise starting again."""
    if (replica := _replica_of(session, claim)) is None:
        return
    replica.url = None
    replica.status = "starting" if replica.status in ALIVE else "dead"


def _replica_of(session: Session, claim: Claim[ReplicaPayload]) -> Replica | None:
    """Return the replica of a job; None where its endpoint was deleted while the process was still draining."""
    return session.scalar(select(Replica).where(Replica.job_id == claim.job_id))


ENDINGS = (".safetensors", ".gguf", ".partial")

log = logging.getLogger(__name__)


def remove_prepared_weights(ctx: Context) -> int:
    """Delete files that no replica has started from for as long as the policy keeps folders of jobs; return their
    number.

    Replicas that have mapped a file keep its contents. A deleted checkpoint's files are deleted with it.
    """
    days = ctx.policy.keep_job_folders_days
    if days <= 0:
        return 0
    before = (ctx.now() - timedelta(days=days)).timestamp()
    gone = 0
    for path in ctx.artifacts.folder(FOLDER).rglob("*"):
        try:
            if path.suffix in ENDINGS and path.stat().st_mtime < before:
                path.unlink()
                gone += 1
        except OSError as error:  # another machine deletes it at the same moment, or permission is missing
            log.warning("%s can't be deleted: %s", path, error)
    return gone
