"""Read the state of an installation, from which the overview's next steps are ranked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session, aliased

from backend.db.tables import (
    Campaign,
    Checkpoint,
    DatasetVersion,
    Deployment,
    Endpoint,
    Evaluation,
    Job,
    Message,
    Run,
    RunGroup,
    Usage,
)
from backend.domain.jobs.states import ACTIVE, JobKind, Status
from backend.domain.training.objectives import Objective
from backend.domain.training.sweep import goal_of_metric
from backend.services.battles.ballots import ballot_progress
from backend.services.battles.raters import find_rater
from backend.services.battles.views import open_campaign_names
from backend.services.context import Context, Person
from backend.services.jobs.queue_position import count_waiting
from backend.services.jobs.workers import list_workers
from backend.services.next_steps import AttentionItem, AwaitedVotes, Situation
from backend.services.serving.endpoints import EndpointView, list_endpoints
from backend.services.serving.monitoring.alerts import divergence_of, list_alerts
from backend.services.training.diagnosis import diagnose_checkpoints, diagnose_run
from backend.services.training.open_sweeps import KIND as SWEEP

FAILURE_DAYS = 7
"""Age after which a failed run is no longer reported."""

MAX_LISTED = 50
"""More than the overview shows, so that others follow those that a person dismissed."""
MAX_CAMPAIGNS = 4
MAX_DIAGNOSED = 4


def read_situation(ctx: Context, person: Person) -> Situation:
    """Return the state of an installation for a person."""
    endpoints = list_endpoints(ctx, include_stopped=False)
    with ctx.db.read() as session:
        situation = Situation(
            has_data=_exists(session, select(DatasetVersion.id).where(DatasetVersion.folder.is_not(None))),
            is_importing=_is_active(session, JobKind.IMPORT_DATASET),
            is_training=_is_active(session, JobKind.TRAIN),
            checkpoints=_items(session, _checkpoints()),
            has_campaigns=_exists(session, select(Campaign.id)),
            has_deployments=_exists(session, select(Deployment.id)),
            has_chats=_exists(session, select(Message.id)) or _exists(session, select(Usage.id)),
            endpoints=tuple(AttentionItem(one.name, one.name) for one in endpoints if one.num_ready),
            failing_endpoints=tuple(
                AttentionItem(one.name, one.name, _problem(one)) for one in endpoints if one.state == "failing"
            ),
            failed_runs=_failed_runs(session, ctx),
            served_without_evaluation=_items(
                session, _checkpoints().where(_unevaluated(), Checkpoint.id.in_(_served()))
            ),
            trained_without_evaluation=_items(
                session, _checkpoints().where(_unevaluated_run(), Checkpoint.id.in_(_final()))
            ),
        )
        queued = count_waiting(session)
    return _with_people(ctx, person, situation, queued)


def _with_people(ctx: Context, person: Person, situation: Situation, queued: dict[str, int]) -> Situation:
    served = {queue for worker in list_workers(ctx) if worker.takes_jobs for queue in worker.queues}
    idle = tuple(sorted((queue, number) for queue, number in queued.items() if queue not in served))
    made = [checkpoint.id for checkpoint in situation.checkpoints]
    diagnosed = diagnose_checkpoints(ctx, made)
    ended = {
        one.run_id: AttentionItem(one.run_id, one.run, one.trouble.sentence, one.trouble.kind)
        for one in diagnosed
        if one.trouble is not None
    }
    training = {run.id: run for run in _troubled_runs(ctx)}
    troubled = tuple((training | ended | training).values())
    spoiled = {one.id for one in diagnosed if one.is_useless}
    usable = _without(situation.checkpoints, spoiled)
    with ctx.db.read() as session:
        beaten = _beaten_in_sweeps(session, [checkpoint.id for checkpoint in usable])
    return replace(
        situation,
        checkpoints=_without(usable, beaten),
        trained_without_evaluation=_without(situation.trained_without_evaluation, spoiled),
        idle_queues=idle,
        votes=_awaited_votes(ctx, person),
        alerts=_open_alerts(ctx, situation.failing_endpoints, troubled),
        troubled_runs=troubled,
    )


def _open_alerts(
    ctx: Context, failing: Sequence[AttentionItem], troubled: Sequence[AttentionItem]
) -> tuple[AttentionItem, ...]:
    """Return the monitor's open alerts, without those of endpoints and runs that are listed themselves."""
    endpoints, runs = tuple(f"{endpoint.name}: " for endpoint in failing), {divergence_of(run.id) for run in troubled}
    return tuple(
        AttentionItem(alert.id, alert.message)
        for alert in list_alerts(ctx)
        if alert.resolved_at is None
        and not (alert.kind == "replica_down" and alert.message.startswith(endpoints))
        and alert.fingerprint not in runs
    )


def _troubled_runs(ctx: Context) -> tuple[AttentionItem, ...]:
    """Return the training runs with an error among their findings, each with its first."""
    with ctx.db.read() as session:
        rows = session.execute(
            select(Run.id, Run.name)
            .join(Job, Job.id == Run.job_id)
            .where(Job.kind == JobKind.TRAIN, Job.status.in_(ACTIVE), Run.last_step > 0)
            .order_by(Job.status == Status.QUEUED, Job.priority, Job.created_at)
            .limit(MAX_DIAGNOSED)
        ).all()
    troubled = []
    for run_id, name in rows:
        finding = next((one for one in diagnose_run(ctx, run_id) if one.severity == "error"), None)
        if finding is not None:
            troubled.append(AttentionItem(run_id, name, finding.sentence, finding.kind))
    return tuple(troubled)


def _without(items: Sequence[AttentionItem], ids: set[str]) -> tuple[AttentionItem, ...]:
    return tuple(item for item in items if item.id not in ids)


def _awaited_votes(ctx: Context, person: Person) -> tuple[AwaitedVotes, ...]:
    if not (campaigns := open_campaign_names(ctx)):
        return ()
    rater = find_rater(ctx, person)
    awaited = []
    for campaign_id, name in list(campaigns.items())[:MAX_CAMPAIGNS]:
        progress = ballot_progress(ctx, campaign_id, rater)
        awaited.append(AwaitedVotes(campaign_id, name, progress.total - progress.done))
    return tuple(awaited)


def _checkpoints() -> Select[str, str]:
    """Select (id, name) of the checkpoints that generate text and have files, newest first."""
    return (
        select(Checkpoint.id, Checkpoint.name)
        .outerjoin(Run, Run.id == Checkpoint.run_id)
        .where(
            Checkpoint.folder.is_not(None),
            Checkpoint.deleted_at.is_(None),
            Checkpoint.archived_at.is_(None),
            func.coalesce(Run.objective, "").not_in([one for one in Objective if not one.facts.writes]),
        )
        .order_by(Checkpoint.created_at.desc(), Checkpoint.step.desc(), Checkpoint.id)
        .limit(MAX_LISTED)
    )


def _beaten_in_sweeps(session: Session, ids: Sequence[str]) -> set[str]:
    """Return those of these checkpoints that are not the best of their sweep; of one without measurements, none."""
    query = (
        select(Checkpoint, Run.group_id, Run.objective)
        .join(Run, Run.id == Checkpoint.run_id)
        .join(RunGroup, RunGroup.id == Run.group_id)
        .where(Checkpoint.id.in_(ids), RunGroup.kind == SWEEP)
    )
    sweeps: dict[str | None, dict[str, float]] = {}
    for checkpoint, group_id, objective in session.execute(query):
        metric = Objective(objective).facts.metrics[0]
        value = checkpoint.metrics.get(metric)
        if value is None or not math.isfinite(value):
            value = math.inf
        elif goal_of_metric(metric) == "highest":
            value = -value
        sweeps.setdefault(group_id, {})[checkpoint.id] = value
    best = {min(values, key=values.__getitem__) for values in sweeps.values()}
    return {
        checkpoint_id
        for values in sweeps.values()
        if min(values.values()) < math.inf
        for checkpoint_id in values.keys() - best
    }


def _unevaluated() -> ColumnElement[bool]:
    return ~select(Evaluation.id).where(Evaluation.checkpoint_id == Checkpoint.id).exists()


def _unevaluated_run() -> ColumnElement[bool]:
    """Match checkpoints of runs without any evaluated checkpoint."""
    sibling = aliased(Checkpoint)
    evaluated = (
        select(Evaluation.id)
        .join(sibling, sibling.id == Evaluation.checkpoint_id)
        .where(sibling.run_id == Checkpoint.run_id)
    )
    return ~evaluated.exists()


def _served() -> Select[Any]:
    return (
        select(Deployment.checkpoint_id)
        .join(Endpoint, Endpoint.id == Deployment.endpoint_id)
        .where(Deployment.stopped_at.is_(None))
    )


def _final() -> Select[Any]:
    """Select the last checkpoint of every finished run that is not archived. Of a sweep the best alone is worth an
    evaluation, and its page says which.
    """
    last = (
        select(Checkpoint.run_id, func.max(Checkpoint.step).label("step"))
        .where(Checkpoint.folder.is_not(None))
        .group_by(Checkpoint.run_id)
    )
    newest = last.subquery()
    return (
        select(Checkpoint.id)
        .join(newest, (newest.c.run_id == Checkpoint.run_id) & (newest.c.step == Checkpoint.step))
        .join(Run, Run.id == Checkpoint.run_id)
        .join(Job, Job.id == Run.job_id)
        .where(Job.status == Status.FINISHED, Run.archived_at.is_(None), Run.group_id.is_(None))
    )


def _failed_runs(session: Session, ctx: Context) -> tuple[AttentionItem, ...]:
    rows = session.execute(
        select(Run.id, Run.name, Job.error)
        .join(Job, Job.id == Run.job_id)
        .where(
            Job.status == Status.FAILED,
            Run.archived_at.is_(None),
            Run.group_id.is_(None),
            Job.finished_at > ctx.now() - timedelta(days=FAILURE_DAYS),
        )
        .order_by(Job.finished_at.desc())
        .limit(MAX_LISTED)
    )
    return tuple(AttentionItem(run_id, name, error.cause) for run_id, name, error in rows)


def _problem(endpoint: EndpointView) -> str:
    return next((replica.problem for replica in endpoint.replicas if replica.problem), "")


def _items(session: Session, query: Select[str, str]) -> tuple[AttentionItem, ...]:
    return tuple(AttentionItem(row_id, name) for row_id, name in session.execute(query))


def _is_active(session: Session, kind: JobKind) -> bool:
    return _exists(session, select(Job.id).where(Job.kind == kind.value, Job.status.in_(ACTIVE)))


def _exists(session: Session, query: Select[Any]) -> bool:
    return session.execute(query.limit(1)).first() is not None
