"""Canaries: a second checkpoint behind an endpoint that gets a share of its requests, and is promoted or aborted by
hand or by rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.db.tables import (
    ApiKey,
    Checkpoint,
    Deployment,
    Endpoint,
    Feedback,
    Job,
    Replica,
    ReplicaFailure,
    Run,
    Usage,
)
from backend.domain.serving.canary import CanaryRules, CanaryVerdict, Observed, Votes, count_paired_votes, judge_canary
from backend.domain.serving.deployment import DeploymentTraffic
from backend.domain.serving.engines import EngineName
from backend.errors import Conflict
from backend.services.context import Context, Person, require_builder
from backend.services.serving.deployments import (
    add_deployment,
    check_num_replicas,
    current_deployment,
    refuse_undeployable,
)
from backend.services.serving.endpoints import EndpointView, find_endpoint, get_endpoint
from backend.services.serving.feedback import RATED_REQUEST, given_feedback
from backend.services.serving.replicas import CANARY, STABLE, active_deployments, advance, retire

MAX_TIMES = 5000


def likely_successor(ctx: Context, checkpoint_id: str, candidates: Sequence[str]) -> str | None:
    """Return the first candidate that is likely to follow a served checkpoint: of its run, made from it or with its
    tokenizer, and of no run that diverged; None where there is none.
    """
    # NumPy is imported for a form's suggestion alone: the command line's other work needs none.
    from backend.services.training.diagnosis import spoiled_checkpoints

    with ctx.db.read() as session:
        query = (
            select(Checkpoint.id, Checkpoint.run_id, Checkpoint.parent_id, Run.tokenizer_id)
            .outerjoin(Run, Run.id == Checkpoint.run_id)
            .where(Checkpoint.id.in_([checkpoint_id, *candidates]))
        )
        kin = {row.id: row for row in session.execute(query)}
    served = kin.get(checkpoint_id)
    if served is None:
        return None
    related = [
        one
        for one in candidates
        if one in kin
        and one != checkpoint_id
        and (
            kin[one].parent_id == checkpoint_id
            or (served.run_id is not None and kin[one].run_id == served.run_id)
            or (served.tokenizer_id is not None and kin[one].tokenizer_id == served.tokenizer_id)
        )
    ]
    return next((one for one in related if not spoiled_checkpoints(ctx, [one])), None)


def start_canary(
    ctx: Context,
    name: str,
    *,
    checkpoint_id: str,
    rules: CanaryRules,
    engine: EngineName | None = None,
    num_replicas: int = 1,
    person: Person,
) -> EndpointView:
    """Serve a second checkpoint, or the same one by another engine, to a share of an endpoint's requests. It replaces
    a canary that runs.

    Raises NotFound, Conflict for a stopped endpoint or a checkpoint that its gates refuse, InvalidInput, NotAllowed for
    a rater.
    """
    require_builder(person)
    check_num_replicas(num_replicas)
    refuse_undeployable(ctx, name=name, checkpoint_id=checkpoint_id, person=person)
    with ctx.db.write() as session:
        endpoint = find_endpoint(session, name)
        stable = current_deployment(session, endpoint)
        add_deployment(
            session,
            ctx,
            endpoint,
            checkpoint_id,
            num_replicas=num_replicas,
            config=stable.config.replace(alias=None, engine=engine or stable.config.engine),
            person=person,
            role=CANARY,
            traffic=_begun(ctx, rules),
        )
    return get_endpoint(ctx, name)


def change_canary(ctx: Context, name: str, *, rules: CanaryRules, person: Person) -> EndpointView:
    """Replace the share and the rules of the canary that runs; its step begins again. Raises Conflict without one."""
    require_builder(person)
    with ctx.db.write() as session:
        _running(session, find_endpoint(session, name)).traffic = _begun(ctx, rules)
    return get_endpoint(ctx, name)


def promote_canary(ctx: Context, name: str, *, person: Person) -> EndpointView:
    """Make the canary the endpoint's stable revision: its replicas replace the others one by one. The endpoint
    keeps its alias as `rollback_endpoint` does. Raises Conflict where none runs.
    """
    require_builder(person)
    with ctx.db.write() as session:
        endpoint = find_endpoint(session, name)
        _promote(session, ctx, endpoint.id, _running(session, endpoint), outcome="canary, promoted by hand")
    return get_endpoint(ctx, name)


def abort_canary(ctx: Context, name: str, *, person: Person) -> EndpointView:
    """End the canary; its open answers finish. Raises Conflict where none runs."""
    require_builder(person)
    with ctx.db.write() as session:
        endpoint = find_endpoint(session, name)
        _abort(session, ctx, _running(session, endpoint), outcome="canary, aborted by hand")
    return get_endpoint(ctx, name)


def judge_canaries(ctx: Context) -> None:
    """Let every canary grow, be promoted or end as its rules say."""
    query = select(Deployment).where(Deployment.role == CANARY, Deployment.stopped_at.is_(None))
    with ctx.db.read() as session:
        verdicts = {row.id: judge_canary(row.traffic, _observe(session, ctx, row)) for row in session.scalars(query)}
    for deployment_id, verdict in verdicts.items():
        if verdict.action != "wait":
            with ctx.db.write() as session:
                _carry_out(session, ctx, deployment_id, verdict)


def _carry_out(session: Session, ctx: Context, deployment_id: str, verdict: CanaryVerdict) -> None:
    canary = session.get_one(Deployment, deployment_id)
    if canary.stopped_at is not None or canary.role != CANARY:
        return  # it ended in the meantime
    if verdict.action == "abort":
        _abort(session, ctx, canary, outcome=f"canary, aborted: {verdict.reason}")
    elif verdict.action == "promote":
        _promote(session, ctx, canary.endpoint_id, canary, outcome=f"canary, promoted: {verdict.reason}")
    else:
        canary.traffic = canary.traffic.model_copy(update={"percent": verdict.percent, "step_at": ctx.now()})


def _promote(session: Session, ctx: Context, endpoint_id: str, canary: Deployment, *, outcome: str) -> None:
    stable = [deployment for deployment in active_deployments(session, endpoint_id) if deployment.role == STABLE]
    canary.role, canary.traffic = STABLE, canary.traffic.model_copy(update={"outcome": outcome})
    if stable:
        canary.num_replicas = stable[-1].num_replicas
        canary.config = canary.config.replace(alias=stable[-1].config.alias)
    session.flush()
    advance(session, ctx, endpoint_id)


def _abort(session: Session, ctx: Context, canary: Deployment, *, outcome: str) -> None:
    retire(session, ctx, canary)
    canary.traffic = canary.traffic.model_copy(update={"percent": 0.0, "outcome": outcome})


def _running(session: Session, endpoint: Endpoint) -> Deployment:
    canaries = [deployment for deployment in active_deployments(session, endpoint.id) if deployment.role == CANARY]
    if not canaries:
        raise Conflict(f"{endpoint.name!r} has no canary.", remedy="Start one with --checkpoint.")
    return canaries[-1]


def _begun(ctx: Context, rules: CanaryRules) -> DeploymentTraffic:
    return DeploymentTraffic(**rules.model_dump(include=set(CanaryRules.model_fields)), step_at=ctx.now())


def _observe(session: Session, ctx: Context, canary: Deployment) -> Observed:
    since = canary.traffic.step_at or canary.created_at
    replicas = session.execute(
        select(Replica.id, Job.lost, Job.error)
        .outerjoin(Job, Job.id == Replica.job_id)
        .where(Replica.deployment_id == canary.id)
    ).all()
    ids = [row[0] for row in replicas]
    rows = session.execute(
        select(Usage.status, Usage.ttft_ms)
        .where(Usage.replica_id.in_(ids), Usage.created_at >= since)
        .order_by(Usage.created_at.desc())
        .limit(MAX_TIMES)
    ).all()
    failures = session.scalar(
        select(func.count())
        .select_from(ReplicaFailure)
        .where(ReplicaFailure.replica_id.in_(ids), ReplicaFailure.created_at >= since)
    )
    answered = [row for row in rows if row[0] in ("finished", "aborted")]
    times = sorted(row[1] for row in answered if row[1] is not None)
    return Observed(
        requests=len(answered) + int(failures or 0),
        failures=int(failures or 0),
        p95_s=times[min(len(times) - 1, int(0.95 * len(times)))] / 1000 if times else None,
        step_s=(ctx.now() - since).total_seconds(),
        votes=read_canary_thumbs(session, canary),
        starts=max((row[1] for row in replicas if row[2]), default=0),
    )


MAX_VOTES = 5000
"""Thumbs on both sides' answers that are read, the first: the choice must not depend on how they came out."""


def read_canary_thumbs(session: Session, canary: Deployment) -> Votes:
    """Return the thumbs on answers since a canary began, from the playground and from `POST /v1/feedback`, in the order
    in which they came.
    """
    rated = _rated(session, canary)
    mine = [thumb > 0 for side, thumb, _ in rated if side == CANARY]
    stable = [thumb > 0 for side, thumb, _ in rated if side == STABLE]
    wins, losses = count_paired_votes(mine, stable)
    known = {voter for _, _, voter in rated if voter is not None}
    votes = Votes(sum(mine), len(mine), sum(stable), len(stable), wins, losses, voters=len(known))
    votes = replace(votes, anonymous=sum(voter is None for _, _, voter in rated))
    if not wins + losses:
        return votes
    # numpy and scipy, which no command on endpoints needs
    import numpy as np

    from backend.domain.battles.inference.evidence import group_e_value, mixture_e_value

    codes = {voter: code for code, voter in enumerate(known)}
    voters = np.array([len(known) + at if voter is None else codes[voter] for at, (*_, voter) in enumerate(rated)])
    thumbs = np.array([float(thumb > 0) for _, thumb, _ in rated])
    evidence, leader = group_e_value(thumbs, voters, np.array([side == CANARY for side, _, _ in rated]))
    return replace(votes, e_value=mixture_e_value(wins, losses), voter_e_value=evidence, voter_side=leader)


def observe_canary(ctx: Context, name: str) -> Observed | None:
    """Return the requests of an endpoint's canary in its present step, and the thumbs; None where no canary runs."""
    with ctx.db.read() as session:
        query = select(Deployment).where(
            Deployment.endpoint_id == find_endpoint(session, name).id, Deployment.stopped_at.is_(None)
        )
        canary = session.scalars(query.where(Deployment.role == CANARY).limit(1)).first()
        return None if canary is None else _observe(session, ctx, canary)


def _rated(session: Session, canary: Deployment) -> list[tuple[str, int, str | None]]:
    """Return (side, thumb, voter) of the thumbs on answers since a canary began, of it and of its endpoint's stable
    revision: earlier answers, of earlier revisions too, were not drawn by side.
    """
    voter = func.coalesce(Feedback.user_id, ApiKey.user_id, Feedback.key_id)
    query = (
        given_feedback(Deployment.role, Feedback.rating, voter)
        .join(Usage, Usage.id == RATED_REQUEST)
        .outerjoin(ApiKey, ApiKey.id == Feedback.key_id)
        .join(Replica, Replica.id == Usage.replica_id)
        .join(Deployment, Deployment.id == Replica.deployment_id)
        .where(
            Feedback.rating.is_not(None),
            Usage.created_at >= canary.created_at,
            Deployment.endpoint_id == canary.endpoint_id,
            (Deployment.id == canary.id) | (Deployment.role == STABLE),
        )
        .order_by(Feedback.created_at, RATED_REQUEST)
        .limit(MAX_VOTES)
    )
    return [(role, thumb, voter) for _, role, thumb, voter in session.execute(query)]
