"""Replicas: addresses of ready ones, and events of their processes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Deployment, Endpoint, Job, Replica
from backend.domain.jobs.events import GaugeEvent, ReadyEvent
from backend.domain.jobs.gauges import ReplicaReport
from backend.domain.jobs.payloads import ReplicaPayload
from backend.domain.jobs.records import JobFailure
from backend.domain.jobs.results import ReplicaResult
from backend.domain.jobs.states import Status
from backend.domain.serving.deployment import RoutingPolicy
from backend.domain.serving.upstream import Upstream
from backend.services.context import Context
from backend.services.jobs.claims import Claim
from backend.services.serving.adapters.served import adapters_of
from backend.services.serving.endpoints import (
    describe_restarts,
    endpoints_of_aliases,
    replica_numbers,
    served_adapters,
)
from backend.services.serving.rollout import ALIVE, CANARY, STABLE, advance


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
