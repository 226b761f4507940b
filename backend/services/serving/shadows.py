"""Shadows: a second checkpoint, or another endpoint, that gets copies of a share of an endpoint's requests. Its answers
are compared, never shown, and cost no key anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from backend.db.tables import Deployment, Endpoint, Job, Replica, ShadowComparison
from backend.domain.jobs.states import Status
from backend.domain.serving.deployment import DeploymentTraffic
from backend.domain.serving.shadow import AnsweredTwice, ShadowReport, report_shadow
from backend.errors import Conflict, InvalidInput
from backend.services.context import Context, Person, require_builder
from backend.services.serving.deployments import (
    add_deployment,
    check_num_replicas,
    current_deployment,
    refuse_undeployable,
)
from backend.services.serving.endpoints import EndpointView, endpoints_of_aliases, find_endpoint, get_endpoint
from backend.services.serving.replicas import SHADOW, Target, active_deployments, retire

KEPT = timedelta(days=30)
MAX_READ = 10_000


@dataclass(frozen=True)
class ShadowTarget:
    """A shadow as gateways read it. `endpoint` names the one that answers the copies; empty where `targets` do."""

    id: str
    percent: float
    targets: tuple[Target, ...]
    endpoint: str = ""


@dataclass(frozen=True)
class ComparedRequest:
    """A comparison to be stored."""

    id: str
    deployment_id: str
    created_at: datetime
    comparison: AnsweredTwice


def start_shadow(
    ctx: Context,
    name: str,
    *,
    checkpoint_id: str | None = None,
    endpoint: str | None = None,
    percent: float = 10.0,
    num_replicas: int = 1,
    person: Person,
) -> EndpointView:
    """Send copies of a share of an endpoint's requests to a checkpoint's own replicas, or to another endpoint; an
    earlier shadow ends.

    Raises InvalidInput unless exactly one of both is given and the percentage is above 0 and at most 100, NotFound,
    Conflict for a stopped endpoint or a checkpoint that its gates refuse, NotAllowed for a rater.
    """
    require_builder(person)
    check_num_replicas(num_replicas)
    if (checkpoint_id is None) == (endpoint is None):
        raise InvalidInput("Give a checkpoint or an endpoint, one of both.", field="checkpoint")
    if not 0 < percent <= 100:
        raise InvalidInput(
            f"percent = {percent:g} is out of range.", remedy="Choose above 0 and at most 100.", field="percent"
        )
    if endpoint == name:
        raise InvalidInput(f"{name!r} can't be its own shadow.", remedy="Choose another endpoint.", field="endpoint")
    if checkpoint_id is not None:
        refuse_undeployable(ctx, name=name, checkpoint_id=checkpoint_id, person=person)
    with ctx.db.write() as session:
        row = find_endpoint(session, name)
        stable = current_deployment(session, row)
        served = checkpoint_id or current_deployment(session, find_endpoint(session, endpoint or "")).checkpoint_id
        add_deployment(
            session,
            ctx,
            row,
            served,
            num_replicas=0 if endpoint else num_replicas,
            config=stable.config.replace(alias=None),
            person=person,
            role=SHADOW,
            traffic=DeploymentTraffic(percent=percent, **({"endpoint": endpoint} if endpoint else {})),
        )
    return get_endpoint(ctx, name)


def stop_shadow(ctx: Context, name: str, *, person: Person) -> EndpointView:
    """End an endpoint's shadow; its comparisons stay readable. Raises Conflict where none runs."""
    require_builder(person)
    with ctx.db.write() as session:
        row = find_endpoint(session, name)
        shadows = [deployment for deployment in active_deployments(session, row.id) if deployment.role == SHADOW]
        if not shadows:
            raise Conflict(f"{name!r} has no shadow.", remedy="Start one with `roundhouse endpoint shadow start`.")
        retire(session, ctx, shadows[-1])
        shadows[-1].traffic = shadows[-1].traffic.model_copy(update={"outcome": "shadow, stopped"})
    return get_endpoint(ctx, name)


def read_shadow(ctx: Context, name: str) -> ShadowReport:
    """Return the report of an endpoint's shadow, else of the last that it had. Raises Conflict if it had none."""
    with ctx.db.read() as session:
        row = find_endpoint(session, name)
        query = select(Deployment.id).where(Deployment.endpoint_id == row.id, Deployment.role == SHADOW)
        shadow = session.scalar(query.order_by(Deployment.revision.desc()).limit(1))
        if shadow is None:
            raise Conflict(f"{name!r} has had no shadow.", remedy="Start one with `roundhouse endpoint shadow start`.")
        columns = [getattr(ShadowComparison, name) for name in AnsweredTwice.__dataclass_fields__]
        compared = select(*columns).where(ShadowComparison.deployment_id == shadow)
        rows = session.execute(compared.order_by(ShadowComparison.created_at.desc()).limit(MAX_READ))
        return report_shadow([AnsweredTwice(*row) for row in rows])


def record_comparisons(ctx: Context, rows: Sequence[ComparedRequest]) -> None:
    """Store comparisons, and erase those older than 30 days."""
    with ctx.db.write() as session:
        session.add_all(
            ShadowComparison(
                id=row.id, deployment_id=row.deployment_id, created_at=row.created_at, **asdict(row.comparison)
            )
            for row in rows
        )
        session.execute(delete(ShadowComparison).where(ShadowComparison.created_at < ctx.now() - KEPT))


def shadow_targets(ctx: Context) -> Mapping[str, ShadowTarget]:
    """Return the shadows by endpoint and by alias, with their ready replicas."""
    with ctx.db.read() as session:
        query = select(Endpoint.name, Deployment).join(Deployment, Deployment.endpoint_id == Endpoint.id)
        rows = session.execute(query.where(Deployment.role == SHADOW, Deployment.stopped_at.is_(None))).all()
        if not rows:
            return {}
        shadows = {name: _target(session, ctx, deployment) for name, deployment in rows}
        return shadows | {
            alias: shadows[name] for alias, name in endpoints_of_aliases(session).items() if name in shadows
        }


def _target(session: Session, ctx: Context, deployment: Deployment) -> ShadowTarget:
    replicas = session.scalars(
        select(Replica)
        .join(Job, Job.id == Replica.job_id)
        .where(
            Replica.deployment_id == deployment.id,
            Replica.status == "ready",
            Replica.url.is_not(None),
            Job.status == Status.RUNNING,
            Job.lease_until > ctx.now().astimezone(UTC),
        )
    )
    targets = tuple(Target(replica.id, str(replica.url), replica.internal_token, deployment.id) for replica in replicas)
    return ShadowTarget(deployment.id, deployment.traffic.percent, targets, deployment.traffic.endpoint)
