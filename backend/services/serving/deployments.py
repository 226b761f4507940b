"""Endpoints and what stands behind them: deploy a checkpoint, watch its replicas, stop. A replica is a leased job."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.db.base import UtcDateTime
from backend.db.tables import Checkpoint, Deployment, Endpoint, Job, Replica, Run, Usage
from backend.domain.jobs.states import TERMINAL, JobKind, Status
from backend.domain.training.config import Objective
from backend.errors import Conflict, InvalidInput, NotFound
from backend.services.checkpoints.checkpoints import require_writer
from backend.services.context import Context, Person, require_builder
from backend.services.jobs.jobs import Claim, add_job, ask_to_stop, request_stop, wake

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,79}")
MAX_REPLICAS = 64


@dataclass(frozen=True)
class ReplicaView:
    """One replica. `gauges`: running, waiting, tokens_per_second; `problem`: why its last start failed."""

    id: str
    status: str
    attempt: int
    device: str | None
    gauges: dict[str, Any]
    ready_at: datetime | None
    problem: str


@dataclass(frozen=True)
class EndpointView:
    """An endpoint with its present deployment; `replicas` is empty once it is stopped."""

    name: str
    checkpoint_id: str
    checkpoint_name: str
    deployed_at: datetime
    stopped_at: datetime | None
    replicas: tuple[ReplicaView, ...]
    requests_last_hour: int
    tokens_last_hour: int
    chats: bool  # learned from conversations, rather than to go on with a text

    @property
    def num_ready(self) -> int:
        """Replicas that answer."""
        return sum(replica.status == "ready" for replica in self.replicas)

    @property
    def state(self) -> str:
        """One word: ready, starting, failing or stopped."""
        if self.stopped_at is not None:
            return "stopped"
        if self.num_ready:
            return "ready"
        return "failing" if any(replica.problem for replica in self.replicas) else "starting"


@dataclass(frozen=True)
class Target:
    """Where a request may go."""

    replica_id: str
    url: str
    internal_token: str


def deploy(
    ctx: Context, *, checkpoint_id: str, name: str, num_replicas: int = 1, config: dict[str, Any] | None = None, person: Person
) -> EndpointView:
    """Bind an endpoint to a checkpoint. A deployment that stood there before is stopped as soon as the new one is ready.

    Raises InvalidInput for a bad name or number, NotFound for an unknown checkpoint, NotAllowed for a rater.
    """
    require_builder(person)
    if not NAME.fullmatch(name):
        raise InvalidInput(
            f"{name!r} can't be an endpoint's name.",
            remedy="Use letters, digits and . _ : / - and begin with a letter or digit.",
            field="name",
        )
    if not 1 <= num_replicas <= MAX_REPLICAS:
        raise InvalidInput(f"{num_replicas} replicas is out of range.", remedy=f"Choose 1 to {MAX_REPLICAS}.", field="replicas")
    with ctx.db.write() as session:
        checkpoint = session.get(Checkpoint, checkpoint_id)
        if checkpoint is None or checkpoint.deleted_at is not None or checkpoint.folder is None:
            raise NotFound("There is no such checkpoint, or its files are gone.")
        require_writer(session, checkpoint_id)
        endpoint = session.scalar(select(Endpoint).where(Endpoint.name == name))
        if endpoint is None:
            endpoint = Endpoint(name=name, created_by=person.id, created_at=ctx.now())
            session.add(endpoint)
            session.flush()
        deployment = Deployment(
            endpoint_id=endpoint.id,
            checkpoint_id=checkpoint.id,
            num_replicas=num_replicas,
            config=config or {},
            created_by=person.id,
            created_at=ctx.now(),
        )
        session.add(deployment)
        session.flush()
        for number in range(num_replicas):
            _add_replica(session, ctx, deployment, checkpoint, name=name, number=number, person=person)
    for _ in range(num_replicas):
        wake(ctx, "serve")
    return get_endpoint(ctx, name)


def _add_replica(
    session: Session, ctx: Context, deployment: Deployment, checkpoint: Checkpoint, *, name: str, number: int, person: Person
) -> None:
    token = secrets.token_urlsafe(24)
    payload = {"checkpoint": checkpoint.folder, "name": name, "internal_token": token, "threads": deployment.config.get("threads", 1)}
    job = add_job(
        session,
        ctx,
        kind=JobKind.REPLICA,
        title=f"{name}, replica {number + 1}",
        payload=payload,
        priority=3,
        restarts_forever=True,
        device=deployment.config.get("device", "auto"),
        created_by=person.id,
    )
    session.add(Replica(deployment_id=deployment.id, job_id=job.id, internal_token=token))


def stop_endpoint(ctx: Context, name: str, *, person: Person) -> EndpointView:
    """Stop every deployment of an endpoint. Its history stays."""
    require_builder(person)
    with ctx.db.write() as session:
        endpoint = _endpoint(session, name)
        deployments = session.scalars(
            select(Deployment).where(Deployment.endpoint_id == endpoint.id, Deployment.stopped_at.is_(None))
        ).all()
        if not deployments:
            raise Conflict(f"The endpoint {name!r} is already stopped.")
        jobs = [job for deployment in deployments for job in _retire(session, ctx, deployment)]
    _stop_jobs(ctx, jobs)
    return get_endpoint(ctx, name)


def _retire(session: Session, ctx: Context, deployment: Deployment) -> list[str]:
    """Mark a deployment as stopped; return the jobs to stop after the commit."""
    deployment.stopped_at = ctx.now()
    replicas = session.scalars(select(Replica).where(Replica.deployment_id == deployment.id)).all()
    for replica in replicas:
        replica.status = "draining" if replica.status == "ready" else "dead"
    return [replica.job_id for replica in replicas]


def _stop_jobs(ctx: Context, jobs: list[str]) -> None:
    for job_id in jobs:
        try:
            request_stop(ctx, job_id, "cancel")
        except Conflict:
            continue  # it ended by itself in the meantime


def _endpoint(session: Session, name: str) -> Endpoint:
    endpoint = session.scalar(select(Endpoint).where(Endpoint.name == name))
    if endpoint is None:
        known = ", ".join(session.scalars(select(Endpoint.name).order_by(Endpoint.name).limit(8))) or "none yet"
        raise NotFound(f"There is no endpoint {name!r}.", remedy=f"Endpoints: {known}.")
    return endpoint


def get_endpoint(ctx: Context, name: str) -> EndpointView:
    """Return one endpoint. Raises NotFound."""
    with ctx.db.read() as session:
        return _view(session, ctx, _endpoint(session, name))


def list_endpoints(ctx: Context, *, include_stopped: bool = True) -> list[EndpointView]:
    """Return every endpoint by name."""
    with ctx.db.read() as session:
        views = [_view(session, ctx, endpoint) for endpoint in session.scalars(select(Endpoint).order_by(Endpoint.name))]
    return [view for view in views if include_stopped or view.stopped_at is None]


def _view(session: Session, ctx: Context, endpoint: Endpoint) -> EndpointView:
    deployment, checkpoint = session.execute(
        select(Deployment, Checkpoint)
        .join(Checkpoint, Checkpoint.id == Deployment.checkpoint_id)
        .where(Deployment.endpoint_id == endpoint.id)
        .order_by(Deployment.created_at.desc())
        .limit(1)
    ).one()
    since = ctx.now() - timedelta(hours=1)
    requests, tokens = session.execute(
        select(func.count(), func.coalesce(func.sum(Usage.completion_tokens), 0)).where(
            Usage.endpoint_id == endpoint.id, Usage.created_at > since
        )
    ).one()
    rows = session.execute(select(Replica, Job).join(Job, Job.id == Replica.job_id).where(Replica.deployment_id == deployment.id)).all()
    replicas = tuple(_replica_view(replica, job) for replica, job in rows) if deployment.stopped_at is None else ()
    return EndpointView(
        name=endpoint.name,
        checkpoint_id=checkpoint.id,
        checkpoint_name=checkpoint.name,
        deployed_at=deployment.created_at,
        stopped_at=deployment.stopped_at,
        replicas=replicas,
        requests_last_hour=requests,
        tokens_last_hour=int(tokens),
        chats=_chats(session, checkpoint),
    )


def _chats(session: Session, checkpoint: Checkpoint) -> bool:
    if checkpoint.run_id is None:
        return bool((checkpoint.facts or {}).get("has_chat_template"))
    return session.scalar(select(Run.objective).where(Run.id == checkpoint.run_id)) != Objective.PRETRAIN


def _replica_view(replica: Replica, job: Job) -> ReplicaView:
    alive = job.status in (Status.RUNNING, Status.CANCELLING)
    status = replica.status if alive or replica.status == "dead" else "starting"
    problem = str((job.error or {}).get("cause") or "")
    return ReplicaView(
        id=replica.id,
        status=status,
        attempt=job.attempt,
        device=job.device,
        gauges=dict(replica.gauges or {}) if alive else {},
        ready_at=replica.ready_at,
        problem=problem,
    )


def list_deployments(ctx: Context, name: str, *, limit: int = 20) -> list[tuple[datetime, datetime | None, str, str]]:
    """Return an endpoint's history: (deployed at, stopped at, checkpoint id, checkpoint name), newest first."""
    with ctx.db.read() as session:
        endpoint = _endpoint(session, name)
        rows = session.execute(
            select(Deployment.created_at, Deployment.stopped_at, Checkpoint.id, Checkpoint.name)
            .join(Checkpoint, Checkpoint.id == Deployment.checkpoint_id)
            .where(Deployment.endpoint_id == endpoint.id)
            .order_by(Deployment.created_at.desc())
            .limit(limit)
        )
        return [(row[0], row[1], row[2], row[3]) for row in rows]


def deployed_endpoints(ctx: Context) -> list[tuple[str, datetime]]:
    """Return (name, deployed at) of every endpoint that is not stopped, by name."""
    with ctx.db.read() as session:
        query = select(Endpoint.name, func.max(Deployment.created_at, type_=UtcDateTime))
        query = query.join(Deployment, Deployment.endpoint_id == Endpoint.id).where(Deployment.stopped_at.is_(None))
        return list(session.execute(query.group_by(Endpoint.name).order_by(Endpoint.name)).tuples())


def ready_targets(ctx: Context) -> dict[str, list[Target]]:
    """Return, for every endpoint that is not stopped, the replicas that answer now.

    A replica counts only while its job's lease holds, so one whose machine died is left out before anybody notices.
    """
    with ctx.db.read() as session:
        names = session.scalars(
            select(Endpoint.name).join(Deployment, Deployment.endpoint_id == Endpoint.id).where(Deployment.stopped_at.is_(None))
        )
        targets: dict[str, list[Target]] = {name: [] for name in names}
        rows = session.execute(
            select(Endpoint.name, Replica.id, Replica.url, Replica.internal_token)
            .join(Deployment, Deployment.id == Replica.deployment_id)
            .join(Endpoint, Endpoint.id == Deployment.endpoint_id)
            .join(Job, Job.id == Replica.job_id)
            .where(
                Deployment.stopped_at.is_(None),
                Replica.status == "ready",
                Replica.url.is_not(None),
                Job.status == Status.RUNNING,
                Job.lease_until > ctx.now(),
            )
        )
        for name, replica_id, url, token in rows:
            targets[name].append(Target(replica_id, str(url), token))
        return targets


def record_ready(session: Session, ctx: Context, claim: Claim, event: dict[str, Any]) -> None:
    """A replica answers: note where, and retire older deployments of its endpoint."""
    replica = session.scalars(select(Replica).where(Replica.job_id == claim.job_id)).one()
    deployment = session.get_one(Deployment, replica.deployment_id)
    if deployment.stopped_at is not None:
        return
    replica.status, replica.url, replica.ready_at = "ready", str(event["url"]), ctx.now()
    older = session.scalars(
        select(Deployment).where(
            Deployment.endpoint_id == deployment.endpoint_id,
            Deployment.stopped_at.is_(None),
            Deployment.id != deployment.id,
            Deployment.created_at <= deployment.created_at,
        )
    ).all()
    for before in older:
        for job_id in _retire(session, ctx, before):
            job = session.get_one(Job, job_id)
            if Status(job.status) not in TERMINAL:
                ask_to_stop(job, "cancel", now=ctx.now())


def record_gauge(session: Session, ctx: Context, claim: Claim, event: dict[str, Any]) -> None:
    """Note how busy a replica is."""
    replica = session.scalars(select(Replica).where(Replica.job_id == claim.job_id)).one()
    replica.gauges = {key: event.get(key) for key in ("running", "waiting", "tokens_per_second")}


def record_end(session: Session, ctx: Context, claim: Claim, _result: dict[str, Any]) -> None:
    """A replica's process ended: it is dead if its deployment was stopped, and starts again otherwise."""
    replica = session.scalars(select(Replica).where(Replica.job_id == claim.job_id)).one()
    deployment = session.get_one(Deployment, replica.deployment_id)
    replica.url = None
    replica.status = "starting" if deployment.stopped_at is None else "dead"
