"""Endpoints that change their number of replicas by themselves: up and down by their queue, to none while idle, and
back at a request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Deployment, Endpoint, Replica, Usage
from backend.domain.serving.autoscaling import Load, decide_replicas
from backend.domain.serving.deployment import DeploymentConfig
from backend.errors import Conflict
from backend.services.context import Context, Person, require_builder
from backend.services.serving.deployments import awake_replicas, current_deployment
from backend.services.serving.endpoints import (
    EndpointView,
    endpoints_of_aliases,
    find_endpoint,
    get_endpoint,
    served_adapters,
)
from backend.services.serving.replicas import ALIVE, SHADOW, STABLE, active_deployments, advance

RECENT = 20  # newest requests; the last one to end is among them


@dataclass(frozen=True)
class Waking:
    """Seconds that a request may wait for replicas of an endpoint that wakes: one for a whole answer, and a stream."""

    whole_s: float
    stream_s: float


def autoscale_endpoints(ctx: Context) -> None:
    """Take the next decision on every endpoint that scales or sleeps by itself."""
    query = select(Deployment).where(
        Deployment.stopped_at.is_(None), Deployment.role == STABLE, Deployment.num_replicas > 0
    )
    with ctx.db.read() as session:
        scaled = [row.endpoint_id for row in session.scalars(query) if row.config.scaling.is_active]
    for endpoint_id in scaled:
        with ctx.db.write() as session:
            _autoscale(session, ctx, endpoint_id)


def _autoscale(session: Session, ctx: Context, endpoint_id: str) -> None:
    endpoint = session.scalars(select(Endpoint).where(Endpoint.id == endpoint_id).with_for_update()).one()
    beside = active_deployments(session, endpoint_id)
    active = [deployment for deployment in beside if deployment.role != SHADOW]
    if len(active) != 1 or not active[0].num_replicas:
        return  # a rollout or a canary is under way, or it was stopped meanwhile
    deployment, now = active[0], ctx.now()
    rules = deployment.config.scaling
    rules = rules if len(beside) == 1 else replace(rules, sleep_after_s=None)  # a shadow waits for requests
    before = deployment.traffic.scaling
    scaling = decide_replicas(rules, _load(session, ctx, deployment), before, now=now.timestamp())
    if scaling.state != before:
        deployment.traffic = deployment.traffic.model_copy(update={"scaling": scaling.state})
    if scaling.replicas == deployment.num_replicas:
        return
    text = f"scaled {deployment.num_replicas} -> {scaling.replicas}: {scaling.reason}"
    deployment.traffic = deployment.traffic.with_event(text, now)
    if scaling.replicas == 0:
        awake = deployment.num_replicas if rules.most is None else rules.least
        deployment.traffic = deployment.traffic.model_copy(update={"awake": awake})
    deployment.num_replicas = scaling.replicas
    session.flush()
    advance(session, ctx, endpoint.id)


def wake_endpoint(ctx: Context, name: str) -> Waking | None:
    """Start the replicas of a sleeping endpoint, by its name, an adapter or an alias, and return how long a request may
    wait for them.

    Returns None for an endpoint that is not there, or never sleeps.
    """
    with ctx.db.read() as session:
        adapter = served_adapters(session).get(name)
        name = endpoints_of_aliases(session).get(name, name) if adapter is None else adapter.endpoint
        deployment = _newest(session, name)
        if deployment is None:
            return None
        options = deployment.config
        if deployment.num_replicas and options.scaling.sleep_after_s is None:
            return None
    if not deployment.num_replicas:
        with ctx.db.write() as session:
            endpoint = session.scalars(select(Endpoint).where(Endpoint.name == name).with_for_update()).one()
            asleep = _newest(session, name)
            if asleep is not None and not asleep.num_replicas:
                number, now = awake_replicas(asleep), ctx.now()
                asleep.traffic = asleep.traffic.with_event(f"scaled 0 -> {number}: a request", now, woken_at=now)
                asleep.num_replicas = number
                session.flush()
                advance(session, ctx, endpoint.id)
    return Waking(whole_s=options.queue_timeout_s, stream_s=options.answer_limit_s)


def change_scaling(ctx: Context, name: str, *, person: Person, **changes: Any) -> EndpointView:
    """Change `min_replicas`, `max_replicas`, `target_queue_s`, `cool_down_s` or `sleep_after_minutes` of an endpoint in
    place.

    Raises InvalidInput that names the field, NotFound, Conflict for a stopped endpoint.
    """
    require_builder(person)
    with ctx.db.write() as session:
        endpoint = find_endpoint(session, name)
        deployment = current_deployment(session, endpoint)
        if deployment.config.upstream is not None:
            raise Conflict(f"{name!r} is answered by another server, which neither scales nor sleeps here.")
        deployment.config = DeploymentConfig.read(deployment.config.dump() | changes)
        rules = deployment.config.scaling
        if deployment.num_replicas:
            most = rules.most or deployment.num_replicas
            deployment.num_replicas = min(max(deployment.num_replicas, rules.least), most)
        elif rules.sleep_after_s is None:
            deployment.num_replicas = max(rules.least, awake_replicas(deployment))
        session.flush()
        advance(session, ctx, endpoint.id)
    return get_endpoint(ctx, name)


def _newest(session: Session, name: str) -> Deployment | None:
    query = (
        select(Deployment)
        .join(Endpoint, Endpoint.id == Deployment.endpoint_id)
        .where(Endpoint.name == name, Deployment.stopped_at.is_(None), Deployment.role == STABLE)
    )
    return session.scalars(query.order_by(Deployment.revision.desc()).limit(1)).first()


def _load(session: Session, ctx: Context, deployment: Deployment) -> Load:
    replicas = session.scalars(
        select(Replica).where(Replica.deployment_id == deployment.id, Replica.status.in_(ALIVE))
    ).all()
    ready = [replica for replica in replicas if replica.status == "ready"]
    gauges = [replica.gauges for replica in ready]
    open_ = sum(gauge.running + gauge.waiting for gauge in gauges)
    idle_s = 0.0 if open_ or not ready else (ctx.now() - _last_used(session, deployment, ready)).total_seconds()
    return Load(
        target=deployment.num_replicas,
        ready=len(ready),
        queue_s=max((gauge.queue_s or 0.0 for gauge in gauges), default=0.0),
        open=open_,
        idle_s=idle_s,
    )


def _last_used(session: Session, deployment: Deployment, ready: Sequence[Replica]) -> datetime:
    """Return when the last request ended, or its replicas became ready if that is later. Refusals are no use."""
    query = select(Usage.created_at, Usage.total_ms).where(
        Usage.endpoint_id == deployment.endpoint_id, Usage.status != "refused"
    )
    rows = session.execute(query.order_by(Usage.created_at.desc()).limit(RECENT)).all()
    ends = [created + timedelta(milliseconds=total_ms or 0) for created, total_ms in rows]
    starts = [replica.ready_at for replica in ready if replica.ready_at is not None]
    return max([*ends, *starts, deployment.created_at])
