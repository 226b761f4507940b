"""Deploy a checkpoint under an endpoint's name; start, stop and delete endpoints. A replica is a leased job."""

from __future__ import annotations

import secrets
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from backend.db.tables import Alias, Checkpoint, Deployment, Endpoint, Replica, RequiredGate, Usage
from backend.domain.jobs.payloads import ReplicaPayload, require_folder
from backend.domain.serving.names import check_endpoint_name
from backend.errors import Conflict, InvalidInput, NotFound
from backend.services.checkpoints.checkpoints import require_writer
from backend.services.context import Context, Person, require_builder
from backend.services.jobs.jobs import add_job, request_stop, wake
from backend.services.serving.endpoints import FOLLOWS, EndpointView, find_endpoint, get_endpoint
from backend.services.serving.replicas import retire
from backend.services.serving.requirements import SafetyRequirement, check_requirement, requirement_of, stored_requirement

MAX_REPLICAS = 64


def deploy(
    ctx: Context,
    *,
    checkpoint_id: str,
    name: str,
    num_replicas: int = 1,
    config: dict[str, Any] | None = None,
    require: SafetyRequirement | None = None,
    alias: str | None = None,
    person: Person,
) -> EndpointView:
    """Bind an endpoint to a checkpoint. The endpoint's previous deployment serves until a replica of the new one is ready.

    With `alias` the endpoint follows it: whenever the alias moves, the checkpoint that holds it is deployed. With `require`, now and of
    every later deployment, the checkpoint must pass the safety gate. Raises InvalidInput for a bad name or
    number, NotFound for an unknown checkpoint, Conflict with the reason for one that does not pass it, or a gate that the endpoint
    requires, NotAllowed for a rater.
    """
    require_builder(person)
    check_endpoint_name(name)
    if not 1 <= num_replicas <= MAX_REPLICAS:
        raise InvalidInput(f"{num_replicas} replicas is out of range.", remedy=f"Choose 1 to {MAX_REPLICAS}.", field="replicas")
    require = require or requirement_of(ctx, name)
    refuse_undeployable(ctx, name=name, checkpoint_id=checkpoint_id, person=person, require=require)
    if alias is not None:
        _check_alias(ctx, alias, checkpoint_id)
    config = {**(config or {}), **({FOLLOWS: alias} if alias else {}), **stored_requirement(require)}
    with ctx.db.write() as session:
        endpoint = session.scalar(select(Endpoint).where(Endpoint.name == name))
        if endpoint is None:
            endpoint = Endpoint(name=name, created_by=person.id, created_at=ctx.now())
            session.add(endpoint)
            session.flush()
        _add_deployment(session, ctx, endpoint, checkpoint_id, num_replicas=num_replicas, config=config, person=person)
    _wake_workers(ctx, num_replicas)
    return get_endpoint(ctx, name)


def start_endpoint(ctx: Context, name: str, *, person: Person) -> EndpointView:
    """Deploy the last checkpoint of a stopped endpoint again, with the same number of replicas and the same settings; an endpoint that
    follows an alias gets the checkpoint that holds it now.

    Raises NotFound for an unknown endpoint or deleted files, Conflict if the endpoint is not stopped or requires a gate that is not passed.
    """
    require_builder(person)
    checkpoint_id = _next_checkpoint(ctx, name)
    refuse_undeployable(ctx, name=name, checkpoint_id=checkpoint_id, person=person)
    with ctx.db.write() as session:
        endpoint = find_endpoint(session, name)
        last = session.scalars(
            select(Deployment).where(Deployment.endpoint_id == endpoint.id).order_by(Deployment.created_at.desc()).limit(1)
        ).one()
        if last.stopped_at is None:
            raise Conflict(f"The endpoint {name!r} is not stopped.", remedy="Stop it first, or deploy another checkpoint under its name.")
        num_replicas = last.num_replicas
        _add_deployment(session, ctx, endpoint, checkpoint_id, num_replicas=num_replicas, config=last.config, person=person)
    _wake_workers(ctx, num_replicas)
    return get_endpoint(ctx, name)


def refuse_undeployable(ctx: Context, *, name: str, checkpoint_id: str, person: Person, require: SafetyRequirement | None = None) -> None:
    """Raise Conflict with the reason for a checkpoint that the endpoint's safety requirement or one of its gates does not accept."""
    required = require or requirement_of(ctx, name)
    if required is not None:
        check_requirement(ctx, checkpoint_id, name=name, requirement=required)
    _check_gates(ctx, name, checkpoint_id, person=person)


def _check_alias(ctx: Context, alias: str, checkpoint_id: str) -> None:
    with ctx.db.read() as session:
        held = session.scalar(select(Alias.checkpoint_id).where(Alias.name == alias))
    if held != checkpoint_id:
        raise Conflict(f"The alias {alias!r} is not held by this checkpoint.", remedy="Deploy from the alias again.", field="alias")


def _next_checkpoint(ctx: Context, name: str) -> str:
    """Return what a start of an endpoint serves: its alias's checkpoint, else its last one."""
    view = get_endpoint(ctx, name)
    with ctx.db.read() as session:
        held = session.scalar(select(Alias.checkpoint_id).where(Alias.name == view.alias)) if view.alias else None
    return held or view.checkpoint_id


def _check_gates(ctx: Context, name: str, checkpoint_id: str, *, person: Person) -> None:
    with ctx.db.read() as session:
        if session.scalar(select(RequiredGate.id).where(RequiredGate.endpoint == name).limit(1)) is None:
            return
    from backend.services.evaluation.gates import refuse_without_gates  # imports scipy, which no other command on endpoints needs

    refuse_without_gates(ctx, endpoint=name, checkpoint_id=checkpoint_id, person=person)


def stop_endpoint(ctx: Context, name: str, *, person: Person) -> EndpointView:
    """Stop every deployment of an endpoint. The name and its history stay. Raises Conflict if it is already stopped."""
    require_builder(person)
    with ctx.db.write() as session:
        endpoint = find_endpoint(session, name)
        deployments = session.scalars(
            select(Deployment).where(Deployment.endpoint_id == endpoint.id, Deployment.stopped_at.is_(None))
        ).all()
        if not deployments:
            raise Conflict(f"The endpoint {name!r} is already stopped.")
        jobs = [job for deployment in deployments for job in retire(session, ctx, deployment)]
    _stop_jobs(ctx, jobs)
    return get_endpoint(ctx, name)


def delete_endpoint(ctx: Context, name: str, *, person: Person) -> None:
    """Delete a stopped endpoint with its history. Conversations stay, and so do counts of requests, without the endpoint's name.

    Raises NotFound for an unknown endpoint, Conflict for one that is not stopped.
    """
    require_builder(person)
    with ctx.db.write() as session:
        endpoint = find_endpoint(session, name)
        deployments = select(Deployment.id).where(Deployment.endpoint_id == endpoint.id)
        if session.scalar(deployments.where(Deployment.stopped_at.is_(None)).limit(1)) is not None:
            raise Conflict(f"The endpoint {name!r} is not stopped.", remedy="Stop it before you delete it.")
        session.execute(delete(Replica).where(Replica.deployment_id.in_(deployments)))
        session.execute(delete(Deployment).where(Deployment.endpoint_id == endpoint.id))
        session.execute(update(Usage).where(Usage.endpoint_id == endpoint.id).values(endpoint_id=None))
        session.delete(endpoint)


def _add_deployment(
    session: Session,
    ctx: Context,
    endpoint: Endpoint,
    checkpoint_id: str,
    *,
    num_replicas: int,
    config: dict[str, Any],
    person: Person,
) -> None:
    checkpoint = session.get(Checkpoint, checkpoint_id)
    if checkpoint is None or checkpoint.deleted_at is not None or checkpoint.folder is None:
        raise NotFound("There is no such checkpoint, or its files are gone.", remedy="Deploy another checkpoint.", field="checkpoint")
    require_writer(session, checkpoint_id)
    deployment = Deployment(
        endpoint_id=endpoint.id,
        checkpoint_id=checkpoint.id,
        num_replicas=num_replicas,
        config=config,
        created_by=person.id,
        created_at=ctx.now(),
    )
    session.add(deployment)
    session.flush()
    for number in range(num_replicas):
        _add_replica(session, ctx, deployment, checkpoint, name=endpoint.name, number=number, person=person)


def _add_replica(
    session: Session, ctx: Context, deployment: Deployment, checkpoint: Checkpoint, *, name: str, number: int, person: Person
) -> None:
    token = secrets.token_urlsafe(24)
    payload = ReplicaPayload(
        checkpoint=require_folder(checkpoint.folder, what="checkpoint"),
        name=name,
        internal_token=token,
        threads=deployment.config.get("threads", 1),
    )
    job = add_job(
        session,
        ctx,
        payload,
        title=f"{name}, replica {number + 1}",
        priority=3,
        restarts_forever=True,
        device=deployment.config.get("device", "auto"),
        created_by=person.id,
    )
    session.add(Replica(deployment_id=deployment.id, job_id=job.id, internal_token=token))


def _wake_workers(ctx: Context, num_replicas: int) -> None:
    for _ in range(num_replicas):
        wake(ctx, "serve")


def _stop_jobs(ctx: Context, jobs: list[str]) -> None:
    for job_id in jobs:
        try:
            request_stop(ctx, job_id, "cancel")
        except Conflict:
            continue  # it ended by itself in the meantime
