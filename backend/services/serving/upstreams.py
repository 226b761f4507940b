"""Models on other servers as deployments: connected by the operator, checked by a real token, answered for by the
gateway.

Such a model is a row among checkpoints without files (`origin` upstream), so that revisions, canaries, votes and the
ledger refer to it as to any other; a deployment copies its config.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Checkpoint, Deployment, Endpoint, Replica
from backend.domain.jobs.gauges import ReplicaReport
from backend.domain.jobs.results import CheckpointFacts
from backend.domain.openai_servers import Capabilities
from backend.domain.serving.names import check_endpoint_name
from backend.domain.serving.upstream import UPSTREAM, Upstream
from backend.errors import Conflict, InvalidInput, NotAllowed, RoundhouseError
from backend.infra.keys import read_key
from backend.infra.openai_api.addresses import is_same_server, refuse_host
from backend.infra.openai_api.calls import ask_capabilities, ask_context, ask_token
from backend.services.checkpoints.checkpoints import CheckpointView, list_checkpoints, resolve_checkpoint
from backend.services.context import Context, Person, require_builder
from backend.services.serving.deployments import deploy
from backend.services.serving.endpoints import EndpointView, find_endpoint, get_endpoint
from backend.services.serving.replicas import ALIVE, advance

log = logging.getLogger(__name__)
MAX_FAILED_CHECKS = 2
TICK_S = 5.0
MAX_CHECKS_AT_ONCE = 8


def connect_upstream(ctx: Context, *, name: str, upstream: Upstream, person: Person) -> EndpointView:
    """Serve a model on another server under an endpoint's name, after one real token. An earlier revision is replaced.

    Asks the server what it offers (up to four requests of one token). Raises NotAllowed for accounts, InvalidInput for
    an address that is not called, Unavailable where server or key do not answer, Conflict where the endpoint's gates
    refuse it.
    """
    require_builder(person)
    refuse_account(person)
    check_endpoint_name(name)
    if is_same_server(upstream.url, ctx.gateway_url):
        raise InvalidInput(
            "This is the address of this installation's own gateway.", remedy="Deploy the checkpoint.", field="url"
        )
    model = _store(ctx, discover(upstream))
    deploy(ctx, checkpoint_id=model, name=name, person=person)
    check_upstreams(ctx, endpoint=name)
    return get_endpoint(ctx, name)


def refuse_account(person: Person) -> None:
    """Raise NotAllowed for a person with an account: only the operator names addresses that the server calls."""
    if person.id is not None:
        raise NotAllowed(
            "An account can't name an address that the server calls, nor a key that it sends.",
            remedy="Ask the operator for `roundhouse endpoint connect`.",
        )


def discover(upstream: Upstream) -> Upstream:
    """Return a config with what its server offers. Raises Unavailable or InvalidInput if it answers no token."""
    refuse_host(upstream.url)
    key = read_key(key_env=upstream.key_env, key_file=upstream.key_file)
    capabilities = Capabilities(**ask_capabilities(upstream.url, model=upstream.model, key=key))
    return upstream.model_copy(
        update={"capabilities": capabilities, "context": upstream.context or ask_context(upstream)}
    )


def list_upstreams(ctx: Context) -> list[CheckpointView]:
    """Return the models on other servers that were connected, newest first."""
    return list_checkpoints(ctx, origin=UPSTREAM)


def resolve_deployable(ctx: Context, name_or_id: str) -> str:
    """Return the id of a checkpoint, or of a connected model on another server, by name or id. Raises as
    `resolve_checkpoint` does.
    """
    model = next((view.id for view in list_upstreams(ctx) if name_or_id in (view.id, view.name)), None)
    return model or resolve_checkpoint(ctx, name_or_id).id


def _store(ctx: Context, upstream: Upstream) -> str:
    """Store a model under its address and name at the server, and return its id."""
    with ctx.db.write() as session:
        rows = session.scalars(
            select(Checkpoint).where(Checkpoint.origin == UPSTREAM, Checkpoint.source == upstream.url)
        )
        row = next((row for row in rows if row.facts.upstream and row.facts.upstream.model == upstream.model), None)
        if row is None:
            if session.scalar(select(Checkpoint.id).where(Checkpoint.name == upstream.title)) is not None:
                raise Conflict(f"There is a checkpoint “{upstream.title}” already.", remedy="Rename that one.")
            row = Checkpoint(
                origin=UPSTREAM, source=upstream.url, name=upstream.title, family=UPSTREAM, created_at=ctx.now()
            )
            session.add(row)
        row.facts = CheckpointFacts(upstream=upstream, has_chat_template=upstream.capabilities.chat)
        session.flush()
        return row.id


def check_upstreams(ctx: Context, *, endpoint: str | None = None) -> None:
    """Ask other servers for a token where their last check is too long ago, or those of one endpoint at once.

    Up to 8 are asked at a time, so that one that hangs holds up no check of a round. Two failures in a row take a
    server's requests away; the next token brings them back.
    """
    with ctx.db.read() as session:
        query = select(Replica, Deployment).join(Deployment, Deployment.id == Replica.deployment_id)
        query = query.where(Replica.job_id.is_(None), Replica.status.in_(ALIVE), Deployment.stopped_at.is_(None))
        if endpoint is not None:
            query = query.where(Deployment.endpoint_id == find_endpoint(session, endpoint).id)
        rows = [
            (replica.id, replica.gauges, deployment.config.upstream) for replica, deployment in session.execute(query)
        ]
    due = [
        (replica_id, upstream)
        for replica_id, gauges, upstream in rows
        if upstream is not None and (endpoint is not None or _is_due(gauges, upstream, now=ctx.now()))
    ]
    if not due:
        return
    with ThreadPoolExecutor(max_workers=min(len(due), MAX_CHECKS_AT_ONCE)) as pool:
        checks = {pool.submit(_ask, upstream): replica_id for replica_id, upstream in due}
        for check in as_completed(checks):
            seconds, problem = check.result()
            _store_check(ctx, checks[check], seconds=seconds, problem=problem)


def watch_upstreams(ctx: Context, stopping: threading.Event) -> None:
    """Check other servers until told to stop."""
    while not stopping.wait(TICK_S):
        try:
            check_upstreams(ctx)
        except Exception as error:  # the next round tries again: the database may be away
            log.warning("checks of other servers: %s", error)


def _is_due(last: ReplicaReport, upstream: Upstream, *, now: datetime) -> bool:
    wait_s = TICK_S if last.failed_checks else upstream.check_every_s
    return last.checked_at is None or (now - last.checked_at).total_seconds() >= wait_s


def _ask(upstream: Upstream) -> tuple[float | None, str]:
    """Return the seconds of a token, or the problem."""
    try:
        return ask_token(upstream), ""
    except RoundhouseError as error:
        return None, str(error)


def _store_check(ctx: Context, replica_id: str, *, seconds: float | None, problem: str) -> None:
    with ctx.db.write() as session:
        replica = session.get(Replica, replica_id)
        if replica is not None and replica.status in ALIVE:
            _record(session, ctx, replica, seconds=seconds, problem=problem)


def _record(session: Session, ctx: Context, replica: Replica, *, seconds: float | None, problem: str) -> None:
    failures = replica.gauges.failed_checks + 1 if problem else 0
    replica.gauges = ReplicaReport(checked_at=ctx.now(), check_s=seconds, problem=problem, failed_checks=failures)
    if not problem and replica.status != "ready":
        replica.status, replica.ready_at = "ready", ctx.now()
    elif failures >= MAX_FAILED_CHECKS:
        replica.status = "starting"
    session.flush()
    deployment = session.get_one(Deployment, replica.deployment_id)
    advance(session, ctx, session.get_one(Endpoint, deployment.endpoint_id).id)
