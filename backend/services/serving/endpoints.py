"""Endpoints as pages and the command line show them, with the LoRA adapters that they serve beside their base, as
`model=ENDPOINT:ADAPTER`, and their owners: who deployed one, and admins, set its request log, make datasets of it and
delete it. Other builders run it: they scale, replace, stop and start it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.db.base import UtcDateTime
from backend.db.tables import Alias, Checkpoint, Deployment, Endpoint, Job, Replica, Run, User
from backend.domain.attributes import view_of
from backend.domain.jobs.gauges import ReplicaReport
from backend.domain.jobs.states import ACTIVE, Status
from backend.domain.serving.deployment import DeploymentConfig, DeploymentTraffic, ScalingEvent
from backend.domain.training.objectives import chats, writes_text
from backend.errors import NotAllowed, NotFound
from backend.services.context import BUILDERS, Context, Person, require_builder


@dataclass(frozen=True)
class ServedAdapter:
    """An adapter of a deployment. `model` is what clients send; an alias of the endpoint may stand in its place."""

    model: str
    endpoint: str
    name: str
    checkpoint_id: str
    folder: str


def adapters_of(endpoint: str, config: DeploymentConfig) -> list[ServedAdapter]:
    """Return the adapters in a deployment's config."""
    return [
        ServedAdapter(f"{endpoint}:{name}", endpoint, name, files.checkpoint_id, files.folder)
        for name, files in sorted(config.adapters.items())
    ]


@dataclass(frozen=True)
class ReplicaView:
    """One replica, the `number`th of its revision. `problem` and `remedy`: why its last start failed;
    `job_id`: where its log is, empty for another server, whose gauges hold its last health check.
    """

    id: str
    number: int
    job_id: str
    revision: int
    role: str
    status: str
    attempt: int
    device: str | None
    gauges: ReplicaReport
    ready_at: datetime | None
    problem: str
    remedy: str = ""

    @property
    def restarts(self) -> str:
        """Return how often it was restarted; empty for one that never was."""
        return describe_restarts(self.attempt - 1) if self.attempt > 1 else ""


@dataclass(frozen=True)
class RolloutView:
    """A rollout under way: ready replicas of the new revision of `target`, and older ones that still answer."""

    revision: int
    previous: int
    new_ready: int
    old_ready: int
    target: int


@dataclass(frozen=True)
class BesideView:
    """A deployment beside the stable one."""

    revision: int
    checkpoint_id: str
    checkpoint_name: str
    num_ready: int
    num_replicas: int


@dataclass(frozen=True)
class CanaryView(BesideView):
    """A canary that gets `percent` of the traffic, and its rules (backend.domain.serving.canary)."""

    traffic: DeploymentTraffic
    since: datetime

    @property
    def percent(self) -> float:
        """Its share of the requests, in percent."""
        return self.traffic.percent


@dataclass(frozen=True)
class ShadowView(BesideView):
    """A shadow that gets copies of `percent` of the requests. `endpoint` names the one that answers them; empty for
    replicas of its own.
    """

    percent: float
    endpoint: str


@dataclass(frozen=True)
class RevisionView:
    """One revision of an endpoint's history. `note` says how it came about or ended, unless plainly deployed."""

    revision: int
    checkpoint_id: str
    checkpoint_name: str
    num_replicas: int
    role: str
    created_at: datetime
    stopped_at: datetime | None
    note: str
    events: tuple[ScalingEvent, ...] = ()
    options: str = ""  # those that differ from their defaults


@dataclass(frozen=True)
class EndpointView:
    """An endpoint with its newest stable revision; `replicas` of every revision, none once it is stopped."""

    name: str
    checkpoint_id: str
    checkpoint_name: str
    deployed_at: datetime
    stopped_at: datetime | None
    replicas: tuple[ReplicaView, ...]
    chats: bool  # trained on conversations; False for a network that continues text
    writes: bool = True  # False for a reward model, which scores answers
    revision: int = 1
    target: int = 1
    config: DeploymentConfig = field(default_factory=DeploymentConfig)
    rollout: RolloutView | None = None
    canary: CanaryView | None = None
    shadow: ShadowView | None = None
    draft_name: str | None = None  # the checkpoint that drafts for it

    @property
    def draft_names(self) -> dict[str, str]:
        """Return the name of its draft by id; empty without one."""
        return {self.config.draft: self.draft_name} if self.config.draft and self.draft_name else {}

    @property
    def arithmetics(self) -> list[str]:
        """Return what computes the replicas' layers on a CPU: code compiled for its processor, or PyTorch, and why."""
        stated = {replica.gauges.arithmetic for replica in self.replicas}
        return sorted(stated - {""})

    @property
    def drafted_tokens(self) -> int:
        """Tokens that the replicas' drafts proposed since they started."""
        return sum(replica.gauges.drafted_tokens or 0 for replica in self.replicas)

    @property
    def acceptance(self) -> float | None:
        """Share of the drafted tokens that the network chose itself; None before the first."""
        accepted = sum(replica.gauges.accepted_tokens or 0 for replica in self.replicas)
        return accepted / self.drafted_tokens if self.drafted_tokens else None

    @property
    def num_ready(self) -> int:
        """Replicas that answer, without those of a canary."""
        return sum(replica.status == "ready" and replica.role == "stable" for replica in self.replicas)

    @property
    def state(self) -> str:
        """One word: ready, updating, starting, failing, asleep or stopped."""
        if self.stopped_at is not None:
            return "stopped"
        if self.target == 0:
            return "asleep"
        if self.num_ready:
            return "updating" if self.rollout else "ready"
        return "failing" if any(replica.problem for replica in self.replicas) else "starting"


def describe_restarts(number: int) -> str:
    """Return how often a replica was restarted."""
    return f"restarted {'once' if number == 1 else f'{number:,} times'}"


def find_endpoint(session: Session, name: str) -> Endpoint:
    """Return the row of an endpoint. Raises NotFound with the known names."""
    endpoint = session.scalar(select(Endpoint).where(Endpoint.name == name))
    if endpoint is None:
        known = ", ".join(session.scalars(select(Endpoint.name).order_by(Endpoint.name).limit(8))) or "none yet"
        raise NotFound(f"There is no endpoint {name!r}.", remedy=f"Endpoints: {known}.")
    return endpoint


def stopped_endpoint(ctx: Context, name: str) -> str | None:
    """Return the name of the endpoint that would answer for a name, its own or an alias that it follows, if that is
    here and stopped.
    """
    with ctx.db.read() as session:
        deployments = select(Endpoint.name, Deployment.stopped_at, Deployment.config).join(
            Endpoint, Endpoint.id == Deployment.endpoint_id
        )
        if session.scalar(select(Alias.id).where(Alias.name == name)) is None:
            deployments = deployments.where(Endpoint.name == name)
        rows = session.execute(
            deployments.where(Deployment.role == "stable").order_by(Deployment.created_at, Deployment.revision)
        ).all()
    running = {endpoint for endpoint, stopped_at, _ in rows if stopped_at is None}
    newest = {endpoint: config for endpoint, _, config in rows if endpoint not in running}
    return next((endpoint for endpoint, config in newest.items() if name in (endpoint, config.alias)), None)


def get_endpoint(ctx: Context, name: str) -> EndpointView:
    """Return one endpoint. Raises NotFound."""
    with ctx.db.read() as session:
        return _view(session, ctx, find_endpoint(session, name))


def find_view(ctx: Context, name: str) -> EndpointView | None:
    """Return one endpoint; None for a name that was never deployed."""
    with ctx.db.read() as session:
        endpoint = session.scalar(select(Endpoint).where(Endpoint.name == name))
        return None if endpoint is None else _view(session, ctx, endpoint)


def resolve_endpoint(ctx: Context, name: str) -> EndpointView:
    """Return an endpoint by its name, or by an alias that it answers for. Raises NotFound."""
    with ctx.db.read() as session:
        if session.scalar(select(Endpoint.id).where(Endpoint.name == name)) is None:
            name = endpoints_of_aliases(session).get(name, name)
        return _view(session, ctx, find_endpoint(session, name))


def list_endpoints(ctx: Context, *, include_stopped: bool = True) -> list[EndpointView]:
    """Return every endpoint by name."""
    query = select(Endpoint).order_by(Endpoint.name)
    if not include_stopped:
        deployed = select(Deployment.endpoint_id).where(Deployment.stopped_at.is_(None), Deployment.role == "stable")
        query = query.where(Endpoint.id.in_(deployed))
    with ctx.db.read() as session:
        return [_view(session, ctx, endpoint) for endpoint in session.scalars(query)]


def describe_same_models(endpoints: Iterable[EndpointView]) -> str:
    """Return which of some endpoints serve one checkpoint, as a sentence for each such checkpoint; empty where all
    differ. An endpoint with a canary serves two.
    """
    names: dict[str, list[str]] = {}
    checkpoints = {}
    for endpoint in endpoints:
        if endpoint.canary is None:
            names.setdefault(endpoint.checkpoint_id, []).append(endpoint.name)
            checkpoints[endpoint.checkpoint_id] = endpoint.checkpoint_name
    return " ".join(
        f"{', '.join(names[one][:-1])} and {names[one][-1]} serve the same checkpoint, {checkpoints[one]}."
        for one in names
        if len(names[one]) > 1
    )


def _view(session: Session, ctx: Context, endpoint: Endpoint) -> EndpointView:
    deployment, checkpoint = session.execute(
        select(Deployment, Checkpoint)
        .join(Checkpoint, Checkpoint.id == Deployment.checkpoint_id)
        .where(Deployment.endpoint_id == endpoint.id, Deployment.role == "stable")
        .order_by(Deployment.stopped_at.is_not(None), Deployment.revision.desc())
        .limit(1)
    ).one()
    replicas = _replica_views(session, endpoint, now=ctx.now()) if deployment.stopped_at is None else ()
    canary, shadow = _beside(session, endpoint, replicas)
    return EndpointView(
        name=endpoint.name,
        checkpoint_id=checkpoint.id,
        checkpoint_name=checkpoint.name,
        deployed_at=deployment.created_at,
        stopped_at=deployment.stopped_at,
        replicas=replicas,
        chats=_chats(session, checkpoint),
        writes=writes_text(_objective(session, checkpoint)),
        revision=deployment.revision,
        target=deployment.num_replicas,
        config=deployment.config,
        rollout=_rollout(deployment, replicas),
        canary=canary,
        shadow=shadow,
        draft_name=(
            session.scalar(select(Checkpoint.name).where(Checkpoint.id == draft))
            if (draft := deployment.config.draft)
            else None
        ),
    )


def _rollout(deployment: Deployment, replicas: tuple[ReplicaView, ...]) -> RolloutView | None:
    stable = [replica for replica in replicas if replica.role == "stable" and replica.status != "draining"]
    older = [replica for replica in stable if replica.revision != deployment.revision]
    if not older:
        return None
    return RolloutView(
        revision=deployment.revision,
        previous=max(replica.revision for replica in older),
        new_ready=sum(replica.status == "ready" for replica in stable if replica.revision == deployment.revision),
        old_ready=sum(replica.status == "ready" for replica in older),
        target=deployment.num_replicas,
    )


def _beside(
    session: Session, endpoint: Endpoint, replicas: tuple[ReplicaView, ...]
) -> tuple[CanaryView | None, ShadowView | None]:
    """Return the canary and the shadow beside the stable deployment."""
    canary, shadow = None, None
    rows = session.execute(
        select(Deployment, Checkpoint.name)
        .join(Checkpoint, Checkpoint.id == Deployment.checkpoint_id)
        .where(Deployment.endpoint_id == endpoint.id, Deployment.role != "stable", Deployment.stopped_at.is_(None))
        .order_by(Deployment.revision)
    )
    for row, checkpoint_name in rows:
        shared: dict[str, Any] = {
            "revision": row.revision,
            "checkpoint_id": row.checkpoint_id,
            "checkpoint_name": checkpoint_name,
            "num_ready": sum(replica.status == "ready" and replica.revision == row.revision for replica in replicas),
            "num_replicas": row.num_replicas,
        }
        if row.role == "canary":
            canary = CanaryView(**shared, traffic=row.traffic, since=row.created_at)
        else:
            shadow = ShadowView(**shared, percent=row.traffic.percent, endpoint=row.traffic.endpoint)
    return canary, shadow


def _chats(session: Session, checkpoint: Checkpoint) -> bool:
    if checkpoint.run_id is None:
        return checkpoint.facts.has_chat_template
    return chats(_objective(session, checkpoint))


def _objective(session: Session, checkpoint: Checkpoint) -> str | None:
    return session.scalar(select(Run.objective).where(Run.id == checkpoint.run_id))


def _replica_views(session: Session, endpoint: Endpoint, *, now: datetime) -> tuple[ReplicaView, ...]:
    """Return the replicas that start, answer or drain, oldest revision first."""
    rows = session.execute(
        select(Replica, Job, Deployment.revision, Deployment.role)
        .outerjoin(Job, Job.id == Replica.job_id)
        .join(Deployment, Deployment.id == Replica.deployment_id)
        .where(
            Deployment.endpoint_id == endpoint.id,
            Replica.status.in_(("starting", "ready")) | ((Replica.status == "draining") & Job.status.in_(ACTIVE)),
        )
        .order_by(Deployment.revision, Job.created_at, Job.id)
    )
    alive = rows.all()
    numbers = replica_numbers(session, {replica.deployment_id for replica, *_ in alive})
    return tuple(
        _replica_view(replica, job, number=numbers[replica.id], revision=revision, role=role, now=now)
        for replica, job, revision, role in alive
    )


def replica_numbers(session: Session, deployment_ids: Iterable[str]) -> dict[str, int]:
    """Return the number of each replica that deployments ever had, counted from 1 in each, oldest first."""
    query = (
        select(Replica.deployment_id, Replica.id)
        .outerjoin(Job, Job.id == Replica.job_id)
        .where(Replica.deployment_id.in_(set(deployment_ids)))
        .order_by(Replica.deployment_id, Job.created_at, Job.id, Replica.id)
    )
    numbers: dict[str, int] = {}
    for _, members in groupby(session.execute(query), key=lambda row: row[0]):
        numbers |= {replica_id: number for number, (_, replica_id) in enumerate(members, start=1)}
    return numbers


def _replica_view(
    replica: Replica, job: Job | None, *, number: int, revision: int, role: str, now: datetime
) -> ReplicaView:
    if job is None:
        gauges = replica.gauges
        return ReplicaView(
            replica.id, number, "", revision, role, replica.status, 1, None, gauges, replica.ready_at, gauges.problem
        )
    failure = job.error
    alive = job.status in (Status.RUNNING, Status.CANCELLING) and job.lease_until is not None and job.lease_until > now
    return ReplicaView(
        id=replica.id,
        number=number,
        job_id=job.id,
        revision=revision,
        role=role,
        status=replica.status if alive else "starting",
        attempt=job.attempt,
        device=job.device,
        gauges=replica.gauges if alive else ReplicaReport(),
        ready_at=replica.ready_at,
        problem=failure.cause,
        remedy=failure.remedy,
    )


def list_revisions(ctx: Context, name: str) -> list[RevisionView]:
    """Return an endpoint's revisions, newest first."""
    with ctx.db.read() as session:
        endpoint = find_endpoint(session, name)
        rows = session.execute(
            select(Deployment, Checkpoint.name)
            .join(Checkpoint, Checkpoint.id == Deployment.checkpoint_id)
            .where(Deployment.endpoint_id == endpoint.id)
            .order_by(Deployment.revision.desc())
            .limit(20)
        ).all()
        drafts = {row.config.draft for row, _ in rows} - {None}
        names = dict(session.execute(select(Checkpoint.id, Checkpoint.name).where(Checkpoint.id.in_(drafts))).all())
        return [_revision_view(row, checkpoint, options=row.config.describe(names)) for row, checkpoint in rows]


def _revision_view(row: Deployment, checkpoint: str, *, options: str) -> RevisionView:
    return view_of(
        RevisionView,
        row,
        checkpoint_name=checkpoint,
        note=f"rollback to revision {row.restores}" if row.restores else row.traffic.outcome,
        events=row.traffic.events,
        options=options,
    )


def deployed_endpoints(ctx: Context) -> list[tuple[str, datetime]]:
    """Return (name, deployed at) of endpoints that are not stopped, their adapters, and aliases they answer for."""
    with ctx.db.read() as session:
        query = select(Endpoint.name, func.max(Deployment.created_at, type_=UtcDateTime))
        query = query.join(Deployment, Deployment.endpoint_id == Endpoint.id)
        query = query.where(Deployment.stopped_at.is_(None), Deployment.role == "stable")
        deployed = dict(session.execute(query.group_by(Endpoint.name)).all())
        deployed |= {model: deployed[adapter.endpoint] for model, adapter in served_adapters(session).items()}
        named = deployed | {
            alias: deployed[name] for alias, name in endpoints_of_aliases(session).items() if name in deployed
        }
        return sorted(named.items())


def endpoints_of_aliases(session: Session) -> dict[str, str]:
    """Return the endpoint that answers for each alias: one that follows it, else one that serves its checkpoint; the
    newest of these.
    """
    rows = session.execute(
        select(Endpoint.name, Deployment.config, Deployment.checkpoint_id)
        .join(Deployment, Deployment.endpoint_id == Endpoint.id)
        .where(Deployment.stopped_at.is_(None), Deployment.role == "stable")
        .order_by(Deployment.created_at, Deployment.revision)
    ).all()
    answering = {}
    for alias, checkpoint_id in session.execute(
        select(Alias.name, Alias.checkpoint_id).where(Alias.checkpoint_id.is_not(None))
    ):
        following = [name for name, config, _ in rows if config.alias == alias]
        serving = [name for name, _, served in rows if served == checkpoint_id]
        if following or serving:
            answering[alias] = (following or serving)[-1]
    return answering


def served_adapters(session: Session) -> dict[str, ServedAdapter]:
    """Return the adapters of deployments that are not stopped, by what clients send: `ENDPOINT:ADAPTER`, or
    `ALIAS:ADAPTER` for an alias that the endpoint answers for. An endpoint of the same name comes first.
    """
    rows = session.execute(
        select(Endpoint.name, Deployment.config)
        .join(Deployment, Deployment.endpoint_id == Endpoint.id)
        .where(Deployment.stopped_at.is_(None), Deployment.role == "stable")
        .order_by(Deployment.revision)
    ).all()
    endpoints = {name for name, _ in rows}
    adapters = [
        adapter for name, config in rows for adapter in adapters_of(name, config) if adapter.model not in endpoints
    ]
    aliases = endpoints_of_aliases(session) if adapters else {}
    names = [(name, name) for name in endpoints] + list(aliases.items())
    return {
        f"{name}:{adapter.name}": adapter
        for name, endpoint in names
        for adapter in adapters
        if adapter.endpoint == endpoint
    }


def list_alias_endpoints(ctx: Context) -> list[EndpointView]:
    """Return a view for every alias that an endpoint answers for: that endpoint's, under the alias's name."""
    with ctx.db.read() as session:
        return [
            replace(_view(session, ctx, find_endpoint(session, name)), name=alias)
            for alias, name in endpoints_of_aliases(session).items()
        ]


def find_own_endpoint(session: Session, name: str, *, person: Person) -> Endpoint:
    """Return an endpoint whose log a person may set and use. Raises NotAllowed with the reason, NotFound."""
    require_builder(person)
    endpoint = find_endpoint(session, name)
    if not person.is_admin and endpoint.created_by != person.id:
        raise NotAllowed(
            f"{_deployer(session, endpoint)}.", remedy="Its request log is set and used by its owner and admins."
        )
    return endpoint


def find_deletable_endpoint(session: Session, name: str, *, person: Person) -> Endpoint:
    """Return an endpoint that a person may delete with history and log. Raises NotAllowed with the reason, NotFound."""
    require_builder(person)
    endpoint = find_endpoint(session, name)
    if not is_in_charge(session, endpoint.created_by, person=person):
        raise NotAllowed(f"{_deployer(session, endpoint)}.", remedy="Its owner and admins delete it.")
    return endpoint


def is_in_charge(session: Session, owner_id: str | None, *, person: Person) -> bool:
    """Return whether a person may remove what an account made: the account itself, admins, and every builder once the
    account is disabled or may no longer deploy. What was made without an account is for admins.
    """
    if person.is_admin or owner_id is None or owner_id == person.id:
        return person.is_admin or owner_id is not None
    owner = session.get(User, owner_id)
    return person.may_build and (owner is None or owner.disabled_at is not None or owner.role not in BUILDERS)


def why_not_own(ctx: Context, name: str, *, person: Person) -> str:
    """Return why a person may not set and use an endpoint's log, empty where they may. Raises NotFound."""
    return _reason(ctx, find_own_endpoint, name, person)


def why_not_delete(ctx: Context, name: str, *, person: Person) -> str:
    """Return why a person may not delete an endpoint, empty where they may. Raises NotFound."""
    return _reason(ctx, find_deletable_endpoint, name, person)


def _reason(ctx: Context, find: Callable[..., Endpoint], name: str, person: Person) -> str:
    try:
        with ctx.db.read() as session:
            find(session, name, person=person)
    except NotAllowed as error:
        return str(error)
    return ""


def _deployer(session: Session, endpoint: Endpoint) -> str:
    owner = session.get(User, endpoint.created_by) if endpoint.created_by else None
    return f"{endpoint.name!r} was deployed {'without an account' if owner is None else f'by {owner.name}'}"
