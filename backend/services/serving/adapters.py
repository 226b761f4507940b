"""Add, remove and list the LoRA adapters of an endpoint, while it answers."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Checkpoint, Deployment, Endpoint, Replica, Run
from backend.domain.serving.deployment import AdapterFiles
from backend.domain.serving.engines import refuse_lacking
from backend.domain.training.objectives import chats
from backend.errors import Conflict, InvalidInput, NotFound, Unavailable
from backend.infra.replicas import change_adapters
from backend.services.checkpoints.checkpoints import CheckpointView, list_checkpoints, require_writer
from backend.services.context import Context, Person, require_builder
from backend.services.serving.deployments import current_deployment, refuse_undeployable
from backend.services.serving.endpoints import EndpointView, adapters_of, find_endpoint, get_endpoint, served_adapters
from backend.services.serving.replicas import ready_targets

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
MAX_ADAPTERS = 64


@dataclass(frozen=True)
class AdapterView:
    """An adapter of an endpoint: its name, what clients send, and its checkpoint."""

    name: str
    model: str
    checkpoint_id: str
    checkpoint_name: str


def add_adapter(ctx: Context, endpoint: str, name: str, *, checkpoint_id: str, person: Person) -> list[AdapterView]:
    """Serve an adapter beside an endpoint's base, as `model=ENDPOINT:NAME`, within about a second. One of that name is
    replaced.

    The checkpoint must be an adapter that was trained by LoRA on the checkpoint that the endpoint serves, and meet the
    endpoint's gates. Raises InvalidInput with the cure, NotFound, Conflict for a stopped endpoint or one of another
    server.
    """
    require_builder(person)
    if not NAME.fullmatch(name):
        raise InvalidInput(
            f"{name!r} can't be an adapter's name.",
            remedy="Use up to 40 letters, digits and . _ - behind a letter or digit.",
            field="name",
        )
    with ctx.db.read() as session:
        row = find_endpoint(session, endpoint)
        deployment = current_deployment(session, row)
        folder = _check_fit(session, row, deployment, checkpoint_id)
        if len({*deployment.config.adapters, name}) > MAX_ADAPTERS:
            raise Conflict(
                f"{endpoint!r} has {MAX_ADAPTERS} adapters.",
                remedy="Remove one, or deploy the base under another name.",
            )
        if session.scalar(select(Endpoint.id).where(Endpoint.name == f"{endpoint}:{name}")) is not None:
            raise Conflict(f"There is an endpoint {endpoint}:{name} already.", remedy="Choose another name.")
    refuse_undeployable(ctx, name=endpoint, checkpoint_id=checkpoint_id, person=person)
    _tell_replicas(ctx, endpoint, load=folder)
    with ctx.db.write() as session:
        deployment = current_deployment(session, find_endpoint(session, endpoint))
        adapters = {**deployment.config.adapters, name: AdapterFiles(checkpoint_id=checkpoint_id, folder=folder)}
        deployment.config = deployment.config.model_copy(update={"adapters": adapters})
    return list_adapters(ctx, endpoint)


def remove_adapter(ctx: Context, endpoint: str, name: str, *, person: Person) -> list[AdapterView]:
    """Serve an adapter no longer; its open answers finish. Raises NotFound."""
    require_builder(person)
    with ctx.db.write() as session:
        deployment = current_deployment(session, find_endpoint(session, endpoint))
        adapters = dict(deployment.config.adapters)
        if (gone := adapters.pop(name, None)) is None:
            known = ", ".join(sorted(adapters)) or "none"
            raise NotFound(f"{endpoint!r} has no adapter {name!r}.", remedy=f"Adapters: {known}.", field="name")
        deployment.config = deployment.config.model_copy(update={"adapters": adapters})
    if gone.folder not in {adapter.folder for adapter in adapters.values()}:
        _tell_replicas(ctx, endpoint, unload=gone.folder)
    return list_adapters(ctx, endpoint)


def list_adapters(ctx: Context, endpoint: str) -> list[AdapterView]:
    """Return the adapters of an endpoint by name; none of a stopped one. Raises NotFound."""
    with ctx.db.read() as session:
        row = find_endpoint(session, endpoint)
        query = select(Deployment).where(
            Deployment.endpoint_id == row.id, Deployment.role == "stable", Deployment.stopped_at.is_(None)
        )
        deployment = session.scalars(query.order_by(Deployment.revision.desc()).limit(1)).first()
        adapters = adapters_of(endpoint, deployment.config) if deployment else []
        ids = [adapter.checkpoint_id for adapter in adapters]
        names = dict(session.execute(select(Checkpoint.id, Checkpoint.name).where(Checkpoint.id.in_(ids))).all())
        return [AdapterView(a.name, a.model, a.checkpoint_id, names.get(a.checkpoint_id, "")) for a in adapters]


def list_adapter_checkpoints(ctx: Context, endpoint: EndpointView) -> list[CheckpointView]:
    """Return the adapters that were trained on an endpoint's checkpoint, newest first."""
    checkpoints = list_checkpoints(ctx, ready=True)
    return [
        view for view in checkpoints if view.is_adapter and view.parent_id == endpoint.checkpoint_id and view.writes
    ]


def list_adapter_endpoints(ctx: Context) -> list[EndpointView]:
    """Return a view of every served adapter: its endpoint's, under what clients send, with its own checkpoint."""
    with ctx.db.read() as session:
        adapters = served_adapters(session)
        ids = [adapter.checkpoint_id for adapter in adapters.values()]
        query = select(Checkpoint.id, Checkpoint.name, Run.objective).outerjoin(Run, Run.id == Checkpoint.run_id)
        trained = {
            id_: (name, objective) for id_, name, objective in session.execute(query.where(Checkpoint.id.in_(ids)))
        }
    views = {name: get_endpoint(ctx, name) for name in {adapter.endpoint for adapter in adapters.values()}}
    return [
        replace(
            views[adapter.endpoint],
            name=model,
            checkpoint_id=adapter.checkpoint_id,
            checkpoint_name=trained.get(adapter.checkpoint_id, ("", None))[0],
            chats=chats(trained.get(adapter.checkpoint_id, ("", None))[1]),
        )
        for model, adapter in adapters.items()
    ]


def _check_fit(session: Session, endpoint: Endpoint, deployment: Deployment, checkpoint_id: str) -> str:
    """Return an adapter's folder if it fits a deployment's base. Raises InvalidInput with the value and the cure."""
    if deployment.config.upstream is not None:
        raise Conflict(
            f"{endpoint.name!r} is answered by another server.", remedy="Load the adapter there, and connect it."
        )
    adapter = session.get(Checkpoint, checkpoint_id)
    base = session.get_one(Checkpoint, deployment.checkpoint_id)
    if adapter is None or adapter.deleted_at is not None or adapter.folder is None:
        raise NotFound(
            "There is no such checkpoint, or its files are gone.", remedy="Choose another one.", field="checkpoint"
        )
    if not adapter.is_adapter:
        raise InvalidInput(
            f"“{adapter.name}” is not an adapter.",
            remedy="Choose one that was trained by LoRA, or deploy it by itself.",
            field="checkpoint",
        )
    require_writer(session, adapter.id)
    options = deployment.config
    # with engine "auto" each replica has chosen its own
    replicas = session.scalars(select(Replica).where(Replica.deployment_id == deployment.id, Replica.status == "ready"))
    for engine in {options.engine, *(replica.gauges.engine for replica in replicas)}:
        refuse_lacking(
            engine,
            family=None,
            precision=options.precision,
            has_draft=options.draft is not None,
            has_adapters=True,
            is_scorer=False,
        )
    if adapter.parent_id != base.id:
        parent = session.get(Checkpoint, adapter.parent_id) if adapter.parent_id else None
        trained_on = f"“{parent.name}”" if parent else "an unknown base"
        raise InvalidInput(
            f"“{adapter.name}” was trained on {trained_on}, and {endpoint.name!r} serves “{base.name}”.",
            remedy=f"Deploy {trained_on} under another name, or choose an adapter of “{base.name}”.",
            field="checkpoint",
        )
    return adapter.folder


def _tell_replicas(ctx: Context, endpoint: str, **change: Any) -> None:
    """Load or unload an adapter at the ready replicas. One that does not answer loads it at its first request.

    Raises InvalidInput where a replica can't serve it.
    """
    for target in ready_targets(ctx).get(endpoint, []):
        try:
            change_adapters(target.url, token=target.internal_token, change=change)
        except Unavailable:
            continue
