"""Bring an endpoint's replicas step by step to what its deployments ask for. Idempotent; each step is a transaction."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from sqlalchemy import event, exists, func, select
from sqlalchemy.orm import Session, aliased

from backend.db.tables import Checkpoint, Deployment, Endpoint, Replica
from backend.domain.jobs.payloads import ReplicaPayload, require_folder
from backend.domain.jobs.states import QUEUE_OF, TERMINAL, JobKind, Status, StopRequest
from backend.domain.serving.rollout import Count, RolloutStep, next_step
from backend.services.context import Context
from backend.services.jobs.jobs import add_job, ask_to_stop, lock_job, wake

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
