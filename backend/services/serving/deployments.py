"""Deploy a checkpoint under a name; scale, roll back, start, stop and delete endpoints. A replica is a leased job."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from backend.db.engine import retry_races
from backend.db.tables import (
    Alias,
    Checkpoint,
    Deployment,
    Endpoint,
    LoadTest,
    LoggedRequest,
    Replica,
    RequestLogPolicy,
    RequiredGate,
    ShadowComparison,
    Usage,
)
from backend.domain.serving.deployment import (
    MAX_REPLICAS,
    AdapterFiles,
    DeploymentConfig,
    DeploymentOptions,
    DeploymentTraffic,
    SafetyRequirement,
)
from backend.domain.serving.engines import SERVERS, refuse_lacking
from backend.domain.serving.names import check_endpoint_name
from backend.errors import Conflict, InvalidInput, NotFound, Unavailable
from backend.infra.engines import INSTALLATIONS, engine_command
from backend.services.checkpoints.checkpoints import is_reward_model
from backend.services.checkpoints.networks import network_has_window, read_network_shape
from backend.services.context import Context, Person, require_builder
from backend.services.jobs.workers import engines_of_workers
from backend.services.serving.drafts import check_draft, with_fitting_draft
from backend.services.serving.endpoints import EndpointView, find_deletable_endpoint, find_endpoint, get_endpoint
from backend.services.serving.replicas import CANARY, SHADOW, STABLE, active_deployments, advance, retire
from backend.services.serving.requirements import check_requirement, requirement_of

CALLED_OFF = "called off"
"""Outcome of a revision whose rollout was taken back before its end."""


@retry_races
def deploy(
    ctx: Context,
    *,
    checkpoint_id: str,
    name: str,
    num_replicas: int | None = None,
    config: Mapping[str, Any] | None = None,
    require: SafetyRequirement | None = None,
    alias: str | None = None,
    follows: bool = False,
    person: Person,
) -> EndpointView:
    """Bind an endpoint to a checkpoint. Replicas of the new revision replace those of the previous one by one, as many
    unless another number is given.

    With `alias` the endpoint follows it: whenever the alias moves, the checkpoint that holds it is deployed. With
    `follows`, as there, a draft that does not fit the checkpoint is left out. With `require`, now and of every later
    deployment, the checkpoint must pass the safety gate. Raises InvalidInput for a bad name or number, or a draft that
    does not fit, NotFound for an unknown checkpoint, Conflict with the reason for one that does not pass it, or a gate
    that the endpoint requires, NotAllowed for a rater.
    """
    require_builder(person)
    check_endpoint_name(name)
    if num_replicas is not None:
        check_num_replicas(num_replicas)
    require = require or requirement_of(ctx, name)
    refuse_undeployable(ctx, name=name, checkpoint_id=checkpoint_id, person=person, require=require)
    if alias is not None:
        _check_alias(ctx, alias, checkpoint_id)
    held = {**({"alias": alias} if alias else {}), **({"require_safety": require} if require else {})}
    options = DeploymentConfig.read({**(config or {}), **held})
    rules = options.scaling
    _check_context(ctx, checkpoint_id, options.context)
    if options.draft is not None and not follows:
        check_draft(ctx, checkpoint_id, options=options)
    with ctx.db.write() as session:
        endpoint = session.scalar(select(Endpoint).where(Endpoint.name == name))
        if endpoint is None:
            endpoint = Endpoint(name=name, created_by=person.id, created_at=ctx.now())
            session.add(endpoint)
            session.flush()
        if num_replicas is None:
            newest = _newest_stable(session, endpoint)
            num_replicas = awake_replicas(newest) if newest else 1
        num_replicas = min(max(num_replicas, rules.least), rules.most) if rules.most else num_replicas
        add_deployment(session, ctx, endpoint, checkpoint_id, num_replicas=num_replicas, config=options, person=person)
    return get_endpoint(ctx, name)


def next_options(previous: EndpointView | None, given: Mapping[str, Any]) -> DeploymentOptions:
    """Return the options of an endpoint's next revision: those given, else those of the previous one, else defaults.

    Raises InvalidInput that names the field.
    """
    return DeploymentOptions.read({**(previous.config.changed() if previous else {}), **given})


def describe_changes(
    previous: EndpointView, options: DeploymentOptions, num_replicas: int, drafts: Mapping[str, str]
) -> str:
    """Return which options and what number of replicas differ from the previous revision's, such as `context 200 tokens
    -> 256 tokens`; empty where none does. `drafts` are names by id.
    """
    changes = [previous.config.describe_changes(options, {**drafts, **previous.draft_names})]
    if previous.target and previous.target != num_replicas:
        changes.append(f"replicas {previous.target} -> {num_replicas}")
    return ", ".join(change for change in changes if change)


def _newest_stable(session: Session, endpoint: Endpoint) -> Deployment | None:
    """Return the newest stable revision, stopped or not; None before the first."""
    return session.scalars(
        select(Deployment)
        .where(Deployment.endpoint_id == endpoint.id, Deployment.role == STABLE)
        .order_by(Deployment.revision.desc())
        .limit(1)
    ).first()


def _check_context(ctx: Context, checkpoint_id: str, context: int | None) -> None:
    """Raise InvalidInput for a context beyond the network's."""
    if context is None:
        return
    with ctx.db.read() as session:
        checkpoint = session.get(Checkpoint, checkpoint_id)
    shape = read_network_shape(ctx, checkpoint.folder) if checkpoint is not None and checkpoint.folder else None
    if shape is not None and context > shape.context:
        raise InvalidInput(
            f"{context:,} tokens are more than the model's own context holds, {shape.context:,}.",
            remedy="Choose at most as many.",
            field="context",
        )


def scale_endpoint(ctx: Context, name: str, num_replicas: int, *, person: Person) -> EndpointView:
    """Change the number of an endpoint's replicas in place: new ones start, or the least busy ones drain.

    Raises InvalidInput for a number out of range, NotFound, Conflict for a stopped endpoint.
    """
    require_builder(person)
    check_num_replicas(num_replicas)
    with ctx.db.write() as session:
        endpoint = find_endpoint(session, name)
        deployment = current_deployment(session, endpoint)
        if deployment.config.upstream is not None:
            raise Conflict(
                f"{name!r} is answered by another server.",
                remedy="Scale that server; `max_requests` bounds what it gets.",
            )
        rules = deployment.config.scaling
        if rules.most is not None and not rules.least <= num_replicas <= rules.most:
            raise Conflict(
                f"{name!r} scales by itself between {rules.least} and {rules.most} replicas, and {num_replicas} is"
                " outside.",
                remedy="Change the limits: roundhouse endpoint scale NAME --min N --max M",
            )
        deployment.num_replicas = num_replicas
        session.flush()
        advance(session, ctx, endpoint.id)
    return get_endpoint(ctx, name)


def rollback_endpoint(ctx: Context, name: str, *, revision: int | None = None, person: Person) -> EndpointView:
    """Serve an earlier revision again: the one before this, or `revision`. It replaces the present one replica by
    replica.

    The present number of replicas is kept. A rollout that has not finished is called off: replicas of the earlier
    revision that still answer continue. An endpoint that follows an alias, now or at the earlier revision, answers to
    its name, while the alias stays with its checkpoint. Raises NotFound for an unknown revision, Conflict for a stopped
    endpoint, a missing earlier revision, or a checkpoint that the endpoint's gates refuse.
    """
    require_builder(person)
    with ctx.db.read() as session:
        endpoint = find_endpoint(session, name)
        current = current_deployment(session, endpoint)
        goal = _earlier(session, endpoint, current, revision)
    refuse_undeployable(ctx, name=name, checkpoint_id=goal.checkpoint_id, person=person)
    config = goal.config.replace(alias=current.config.alias or goal.config.alias)
    with ctx.db.write() as session:
        endpoint = find_endpoint(session, name)
        active = [deployment for deployment in active_deployments(session, endpoint.id) if deployment.role == STABLE]
        if [d.id for d in active[-2:]] == [goal.id, current.id]:  # called off in the middle of its rollout
            active[-2].num_replicas, active[-2].config = current.num_replicas, config
            retire(session, ctx, active[-1])
            active[-1].traffic = DeploymentTraffic(outcome=CALLED_OFF)
            session.flush()
            advance(session, ctx, endpoint.id)
        else:
            add_deployment(
                session,
                ctx,
                endpoint,
                goal.checkpoint_id,
                num_replicas=awake_replicas(current),
                config=config,
                person=person,
                restores=goal.restores or goal.revision,
            )
    return get_endpoint(ctx, name)


def swap_checkpoint(ctx: Context, name: str, *, checkpoint_id: str, person: Person) -> EndpointView:
    """Serve another checkpoint with the same number of replicas and the same options, replica by replica.

    The endpoint keeps its alias as `rollback_endpoint` does, and a quantised checkpoint is measured again. Raises
    NotFound, Conflict for a stopped endpoint or a checkpoint that the endpoint's gates refuse, NotAllowed for a rater.
    """
    require_builder(person)
    refuse_undeployable(ctx, name=name, checkpoint_id=checkpoint_id, person=person, require=requirement_of(ctx, name))
    with ctx.db.write() as session:
        endpoint = find_endpoint(session, name)
        current = current_deployment(session, endpoint)
        config = current.config.replace(precision_check=None)
        add_deployment(
            session, ctx, endpoint, checkpoint_id, num_replicas=awake_replicas(current), config=config, person=person
        )
    return get_endpoint(ctx, name)


@dataclass(frozen=True)
class RollbackTarget:
    """The revision that a rollback serves again. `problem` says why it can't be served, and is empty if it can."""

    revision: int
    checkpoint_name: str
    problem: str


def rollback_target(ctx: Context, name: str) -> RollbackTarget | None:
    """Return the revision that a rollback serves again; None where there is none."""
    with ctx.db.read() as session:
        try:
            endpoint = find_endpoint(session, name)
            goal = _earlier(session, endpoint, current_deployment(session, endpoint), None)
        except Conflict:
            return None
        checkpoint = session.get_one(Checkpoint, goal.checkpoint_id)
        problem = str(_missing_files(checkpoint)) if _is_without_files(checkpoint) else ""
        return RollbackTarget(goal.revision, checkpoint.name, problem)


def _is_without_files(checkpoint: Checkpoint) -> bool:
    """True for a deleted checkpoint, and for one that is neither here nor on another server."""
    return checkpoint.deleted_at is not None or (checkpoint.folder is None and checkpoint.facts.upstream is None)


def _missing_files(checkpoint: Checkpoint) -> NotFound:
    return NotFound(
        f"The files of “{checkpoint.name}” are gone.", remedy="Deploy another checkpoint.", field="checkpoint"
    )


def current_deployment(session: Session, endpoint: Endpoint) -> Deployment:
    """Return the newest stable deployment that is not stopped. Raises Conflict where there is none."""
    active = [deployment for deployment in active_deployments(session, endpoint.id) if deployment.role == STABLE]
    if not active:
        raise Conflict(
            f"The endpoint {endpoint.name!r} is stopped.", remedy=f"Start it: roundhouse endpoint start {endpoint.name}"
        )
    return active[-1]


def awake_replicas(deployment: Deployment) -> int:
    """Return the number of replicas of a deployment, while it sleeps that of when it is awake."""
    return deployment.num_replicas or deployment.traffic.awake or 1


def _earlier(session: Session, endpoint: Endpoint, current: Deployment, revision: int | None) -> Deployment:
    """Return the revision to go back to: the one before whose rollout was not called off. After a rollback, that is
    before the restored one, so that steps back add up.
    """
    query = select(Deployment).where(Deployment.endpoint_id == endpoint.id, Deployment.role == STABLE)
    if revision is not None:
        goal = session.scalar(query.where(Deployment.revision == revision))
        if goal is None:
            raise NotFound(f"{endpoint.name!r} has no revision {revision} to go back to.", field="revision")
        return goal
    before = current.restores or current.revision
    earlier = session.scalars(query.where(Deployment.revision < before).order_by(Deployment.revision.desc()))
    goal = next((deployment for deployment in earlier if deployment.traffic.outcome != CALLED_OFF), None)
    if goal is None:
        raise Conflict(f"{endpoint.name!r} has no revision before {before}.", remedy="Deploy another checkpoint.")
    return goal


def check_num_replicas(num_replicas: int) -> None:
    """Raise InvalidInput for a number of replicas out of range."""
    if not 1 <= num_replicas <= MAX_REPLICAS:
        raise InvalidInput(
            f"{num_replicas} replicas is out of range.", remedy=f"Choose 1 to {MAX_REPLICAS}.", field="replicas"
        )


def start_endpoint(ctx: Context, name: str, *, person: Person) -> EndpointView:
    """Deploy the last checkpoint of a stopped endpoint again, with the same number of replicas and the same settings;
    an endpoint whose alias moved in the meantime gets the checkpoint that holds it now.

    Raises NotFound for an unknown endpoint or deleted files, Conflict if the endpoint is not stopped or requires a gate
    that is not passed.
    """
    require_builder(person)
    checkpoint_id = _next_checkpoint(ctx, name)
    refuse_undeployable(ctx, name=name, checkpoint_id=checkpoint_id, person=person)
    with ctx.db.write() as session:
        endpoint = find_endpoint(session, name)
        last = _newest_stable(session, endpoint)
        if last is None or last.stopped_at is None:
            raise Conflict(
                f"The endpoint {name!r} is not stopped.",
                remedy="Stop it first, or deploy another checkpoint under its name.",
            )
        add_deployment(
            session, ctx, endpoint, checkpoint_id, num_replicas=awake_replicas(last), config=last.config, person=person
        )
    return get_endpoint(ctx, name)


def refuse_undeployable(
    ctx: Context, *, name: str, checkpoint_id: str, person: Person, require: SafetyRequirement | None = None
) -> None:
    """Raise Conflict with the reason for a checkpoint that the endpoint's safety requirement or gates refuse."""
    required = require or requirement_of(ctx, name)
    if required is not None:
        check_requirement(ctx, checkpoint_id, name=name, requirement=required)
    _check_gates(ctx, name, checkpoint_id, person=person)


def _check_alias(ctx: Context, alias: str, checkpoint_id: str) -> None:
    with ctx.db.read() as session:
        held = session.scalar(select(Alias.checkpoint_id).where(Alias.name == alias))
    if held != checkpoint_id:
        raise Conflict(
            f"The alias {alias!r} is not held by this checkpoint.", remedy="Deploy from the alias again.", field="alias"
        )


def _next_checkpoint(ctx: Context, name: str) -> str:
    """Return what a start of an endpoint serves: its alias's checkpoint if the alias moved after the last deployment,
    else its last one.
    """
    view = get_endpoint(ctx, name)
    moved = select(Alias.checkpoint_id).where(Alias.name == view.config.alias, Alias.updated_at > view.deployed_at)
    with ctx.db.read() as session:
        return session.scalar(moved) or view.checkpoint_id


def _check_gates(ctx: Context, name: str, checkpoint_id: str, *, person: Person) -> None:
    with ctx.db.read() as session:
        if session.scalar(select(RequiredGate.id).where(RequiredGate.endpoint == name).limit(1)) is None:
            return
    # imports scipy, which no other command on endpoints needs
    from backend.services.evaluation.gates import refuse_without_gates

    refuse_without_gates(ctx, endpoint=name, checkpoint_id=checkpoint_id, person=person)


def stop_endpoint(ctx: Context, name: str, *, person: Person) -> EndpointView:
    """Stop every deployment of an endpoint. The name and its history stay. Raises Conflict if it is already stopped."""
    require_builder(person)
    with ctx.db.write() as session:
        endpoint = find_endpoint(session, name)
        deployments = active_deployments(session, endpoint.id)
        if not deployments:
            raise Conflict(f"The endpoint {name!r} is already stopped.")
        for deployment in deployments:
            retire(session, ctx, deployment, how="cancel")
    return get_endpoint(ctx, name)


def delete_endpoint(ctx: Context, name: str, *, person: Person) -> None:
    """Delete a stopped endpoint with its history. Conversations stay, and so do counts of requests, without the
    endpoint's name.

    Raises NotFound for an unknown endpoint, Conflict for one that is not stopped, NotAllowed for another person's.
    """
    with ctx.db.write() as session:
        endpoint = find_deletable_endpoint(session, name, person=person)
        deployments = select(Deployment.id).where(Deployment.endpoint_id == endpoint.id)
        if session.scalar(deployments.where(Deployment.stopped_at.is_(None)).limit(1)) is not None:
            raise Conflict(f"The endpoint {name!r} is not stopped.", remedy="Stop it before you delete it.")
        session.execute(delete(ShadowComparison).where(ShadowComparison.deployment_id.in_(deployments)))
        session.execute(delete(Replica).where(Replica.deployment_id.in_(deployments)))
        session.execute(delete(Deployment).where(Deployment.endpoint_id == endpoint.id))
        session.execute(update(Usage).where(Usage.endpoint_id == endpoint.id).values(endpoint_id=None))
        session.execute(delete(LoadTest).where(LoadTest.endpoint_id == endpoint.id))
        session.execute(delete(LoggedRequest).where(LoggedRequest.endpoint_id == endpoint.id))
        session.execute(delete(RequestLogPolicy).where(RequestLogPolicy.endpoint_id == endpoint.id))
        session.delete(endpoint)


def add_deployment(
    session: Session,
    ctx: Context,
    endpoint: Endpoint,
    checkpoint_id: str,
    *,
    num_replicas: int,
    config: DeploymentConfig,
    person: Person,
    restores: int | None = None,
    role: str = STABLE,
    traffic: DeploymentTraffic | None = None,
) -> Deployment:
    """Add an endpoint's next revision and start its first replicas. Raises NotFound for a checkpoint without files."""
    checkpoint = session.get(Checkpoint, checkpoint_id)
    if checkpoint is None:
        raise NotFound("There is no such checkpoint.", remedy="Deploy another checkpoint.", field="checkpoint")
    if _is_without_files(checkpoint):
        raise _missing_files(checkpoint)
    upstream = checkpoint.facts.upstream
    _check_kind(session, endpoint, checkpoint, config)
    adapters = _fitting_adapters(session, endpoint, checkpoint, config)
    if upstream is None:
        _check_engine(session, ctx, checkpoint, config, has_adapters=bool(adapters))
    config = config.replace(upstream=upstream, adapters=adapters)
    config = with_fitting_draft(session, ctx, checkpoint, config)
    newest = session.scalar(select(func.max(Deployment.revision)).where(Deployment.endpoint_id == endpoint.id)) or 0
    _retire_superseded(session, ctx, endpoint, role=role)
    deployment = Deployment(
        endpoint_id=endpoint.id,
        checkpoint_id=checkpoint.id,
        num_replicas=1 if upstream else num_replicas,
        config=config,
        created_by=person.id,
        created_at=ctx.now(),
        revision=newest + 1,
        restores=restores,
        role=role,
        traffic=traffic or DeploymentTraffic(),
    )
    session.add(deployment)
    session.flush()
    advance(session, ctx, endpoint.id)
    return deployment


def _check_kind(session: Session, endpoint: Endpoint, checkpoint: Checkpoint, options: DeploymentOptions) -> None:
    """Raise for a reward model under the name of an endpoint that writes, or the reverse, and for options that it has
    no use for.

    Clients of an endpoint call other parts of the API where it scores.
    """
    query = (
        select(Deployment.checkpoint_id)
        .where(Deployment.endpoint_id == endpoint.id)
        .order_by(Deployment.revision.desc())
        .limit(1)
    )
    before = session.scalar(query)
    is_scorer = is_reward_model(session, checkpoint.id)
    if before is not None and is_reward_model(session, before) != is_scorer:
        words = ("writes text", "a reward model") if is_scorer else ("scores answers", "a model that writes")
        raise Conflict(
            f"{endpoint.name!r} {words[0]}, and “{checkpoint.name}” is {words[1]}.",
            remedy="Deploy it under a name of its own.",
        )
    if is_scorer and (options.precision != "float32" or options.draft is not None):
        field = "draft" if options.draft is not None else "precision"
        raise InvalidInput(
            "A reward model is served in float32, without a draft.", remedy=f"Leave {field} out.", field=field
        )


def _check_engine(
    session: Session, ctx: Context, checkpoint: Checkpoint, options: DeploymentOptions, *, has_adapters: bool
) -> None:
    """Raise InvalidInput for what the engine lacks, and Unavailable, with the command that installs it, where no living
    worker can start it; without a worker this machine is asked.
    """
    refuse_lacking(
        options.engine,
        family=checkpoint.family or None,
        precision=options.precision,
        has_draft=options.draft is not None,
        has_adapters=has_adapters,
        is_scorer=is_reward_model(session, checkpoint.id),
        is_adapter=checkpoint.is_adapter,
        has_gguf=bool(checkpoint.facts.quantisation),
        gpus=options.gpus,
        has_window=options.engine in SERVERS
        and checkpoint.folder is not None
        and network_has_window(ctx, checkpoint.folder),
    )
    if options.engine not in SERVERS:
        return
    _require_engine(options.engine, engines_of_workers(session, ctx))


def missing_engines(ctx: Context) -> dict[str, str]:
    """Return why and how to install each engine that no living worker can start, by its name; without a worker this
    machine is asked.
    """
    with ctx.db.read() as session:
        engines = engines_of_workers(session, ctx)
    cures = {}
    for engine in SERVERS:
        try:
            _require_engine(engine, engines)
        except Unavailable as missing:
            cures[engine] = f"{missing.message} {missing.remedy}"
    return cures


def _require_engine(engine: str, engines: Collection[str] | None) -> None:
    if engines is None:
        engine_command(engine)
    elif engine not in engines:
        raise Unavailable(
            f"No worker that serves can start engine {engine}.",
            remedy=f"On the machine of such a worker: {INSTALLATIONS[engine].remedy}. Then restart the worker.",
        )


def _fitting_adapters(
    session: Session, endpoint: Endpoint, checkpoint: Checkpoint, config: DeploymentConfig
) -> dict[str, AdapterFiles]:
    """Return the adapters of this base: a config's own, else those of the revision that serves the same base now."""
    adapters = config.adapters
    if "adapters" not in config.model_fields_set:
        active = [
            d for d in active_deployments(session, endpoint.id) if d.role == STABLE and d.checkpoint_id == checkpoint.id
        ]
        adapters = active[-1].config.adapters if active else {}
    ids = [adapter.checkpoint_id for adapter in adapters.values()]
    fitting = select(Checkpoint.id).where(
        Checkpoint.id.in_(ids), Checkpoint.parent_id == checkpoint.id, Checkpoint.deleted_at.is_(None)
    )
    usable = set(session.scalars(fitting))
    return {name: adapter for name, adapter in adapters.items() if adapter.checkpoint_id in usable}


def _retire_superseded(session: Session, ctx: Context, endpoint: Endpoint, *, role: str) -> None:
    """Stop what a new deployment takes the place of: canaries, a shadow by the next one, and unfinished rollouts that
    have no ready replica where an earlier revision answers.
    """
    active = active_deployments(session, endpoint.id)
    query = select(Replica.deployment_id).where(
        Replica.deployment_id.in_([d.id for d in active]), Replica.status == "ready"
    )
    answering = set(session.scalars(query))
    for deployment in active:
        is_unfinished = role == STABLE and bool(answering) and deployment.id not in answering
        if (deployment.role == CANARY and role != SHADOW) or deployment.role == role == SHADOW or is_unfinished:
            retire(session, ctx, deployment)
            deployment.traffic = deployment.traffic.model_copy(update={"outcome": "superseded by the next revision"})
