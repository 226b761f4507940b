"""The overview's log: jobs that ended, votes, deployments, decisions, alerts, and for admins accounts and keys, newest
first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import case, func, or_, select
from sqlalchemy.orm import Session

from backend.db.tables import (
    Alert,
    Alias,
    ApiKey,
    Battle,
    Campaign,
    Checkpoint,
    DatasetVersion,
    Deployment,
    Endpoint,
    Evaluation,
    Job,
    Promotion,
    Rater,
    Run,
    RunGroup,
    Tokenizer,
    User,
    Vote,
)
from backend.domain.jobs.own_keys import OWN_KEYS
from backend.domain.jobs.states import JobKind, Status
from backend.domain.wording import plural, shorten
from backend.services.battles.raters import LOCAL_RATER
from backend.services.battles.views import vote_holds
from backend.services.context import Context, Person
from backend.services.scaling.studies import KIND as STUDY
from backend.services.serving.monitoring.alerts import DIVERGING_RUN, RUN_EVENTS

MAX_ACTIVITIES = 40
MAX_CAUSE = 160
REPORTED = (
    JobKind.IMPORT_DATASET,
    JobKind.EVALUATE,
    JobKind.LOGLIKELIHOOD,
    JobKind.CLASSIFY,
    JobKind.TRAIN_TOKENIZER,
    JobKind.ADD_BASE,
    JobKind.EXPORT,
    JobKind.EXPORT_DATASET,
    JobKind.DATA_REPORT,
    JobKind.JUDGE,
    JobKind.LOAD_TEST,
)
"""Kinds of jobs other than training that are reported when they end. Of the others only failures are."""


class ActivityKind(StrEnum):
    """Kind of an event."""

    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"
    VOTED = "voted"
    DEPLOYED = "deployed"
    DECIDED = "decided"
    CAMPAIGN = "campaign"
    ALERT = "alert"
    ACCOUNT = "account"
    KEY = "key"


OUTCOMES = {
    Status.FINISHED: ActivityKind.FINISHED,
    Status.FAILED: ActivityKind.FAILED,
    Status.CANCELLED: ActivityKind.STOPPED,
}
DECISIONS = {"promote": "promoted", "reject": "rejected", "rollback": "rolled back"}


@dataclass(frozen=True)
class Activity:
    """Something that happened: the object's name, what happened to it, and whose account or ballot it came from.
    `subject` is the kind and key of the object's page; None if it has none.
    """

    at: datetime
    kind: ActivityKind
    name: str
    text: str
    who: str = ""
    subject: tuple[str, str] | None = None


def list_activities(ctx: Context, *, since: datetime, person: Person) -> list[Activity]:
    """Return at most 40 of the newest activities since a time. Runs of a sweep or study are one; so are the votes of a
    rater in a campaign. Accounts and keys are for admins alone.
    """
    with ctx.db.read() as session:
        activities = [
            *_runs(session, since),
            *_groups(session, since),
            *_jobs(session, since),
            *_votes(session, since, sign_in=ctx.sign_in),
            *_campaigns(session, since),
            *_deployments(session, since),
            *_decisions(session, since),
            *_alerts(session, since),
            *(_accounts(session, since) if person.is_admin else ()),
            *(_keys(session, since) if person.is_admin else ()),
        ]
    return sorted(activities, key=lambda activity: activity.at, reverse=True)[:MAX_ACTIVITIES]


def _outcome(status: str, cause: str = "") -> str:
    if status == Status.FAILED:
        return f"failed: {shorten(' '.join(cause.split()), MAX_CAUSE)}" if cause else "failed"
    return "finished" if status == Status.FINISHED else "was stopped"


def _runs(session: Session, since: datetime) -> Iterator[Activity]:
    rows = session.execute(
        select(Run.id, Run.name, Job.status, Job.error, Job.finished_at, User.name)
        .join(Job, Job.id == Run.job_id)
        .outerjoin(User, User.id == Run.created_by)
        .where(Job.status.in_(OUTCOMES), Job.finished_at >= since, Run.group_id.is_(None))
        .order_by(Job.finished_at.desc())
        .limit(MAX_ACTIVITIES)
    )
    for run_id, name, status, error, at, who in rows:
        yield Activity(
            at or since, OUTCOMES[Status(status)], name, _outcome(status, error.cause), who or "", ("run", run_id)
        )


def _groups(session: Session, since: datetime) -> Iterator[Activity]:
    """Yield the runs of each sweep or study that ended, as one."""
    last = func.max(Job.finished_at)
    counts = [func.sum(case((Job.status == status, 1), else_=0)) for status in OUTCOMES]
    rows = session.execute(
        select(RunGroup.id, RunGroup.name, RunGroup.kind, last, User.name, *counts)
        .join(Run, Run.group_id == RunGroup.id)
        .join(Job, Job.id == Run.job_id)
        .outerjoin(User, User.id == RunGroup.created_by)
        .where(Job.status.in_(OUTCOMES), Job.finished_at >= since)
        .group_by(RunGroup.id, RunGroup.name, RunGroup.kind, User.name)
        .order_by(last.desc())
        .limit(MAX_ACTIVITIES)
    )
    for group_id, name, kind, at, who, finished, failed, stopped in rows:
        parts = [
            f"{plural(number, 'run')} {word}"
            for number, word in ((finished, "finished"), (failed, "failed"), (stopped, "stopped"))
            if number
        ]
        outcome = ActivityKind.FAILED if failed else ActivityKind.FINISHED if finished else ActivityKind.STOPPED
        subject = ("study" if kind == STUDY else "sweep", group_id)
        yield Activity(at, outcome, name, ", ".join(parts), who or "", subject)


def _jobs(session: Session, since: datetime) -> Iterator[Activity]:
    """Yield jobs other than training that ended, with the object that each made."""
    rows = session.execute(
        select(
            Job.title,
            Job.status,
            Job.error,
            Job.finished_at,
            User.name,
            DatasetVersion.dataset_id,
            Evaluation.id,
            Tokenizer.id,
            Checkpoint.id,
        )
        .outerjoin(User, User.id == Job.created_by)
        .outerjoin(DatasetVersion, DatasetVersion.job_id == Job.id)
        .outerjoin(Evaluation, Evaluation.job_id == Job.id)
        .outerjoin(Tokenizer, Tokenizer.job_id == Job.id)
        .outerjoin(Checkpoint, Checkpoint.job_id == Job.id)
        .where(
            Job.status.in_(OUTCOMES),
            Job.finished_at >= since,
            Job.kind.not_in((JobKind.TRAIN, JobKind.REPLICA)),
            or_(Job.kind.in_(REPORTED), Job.status == Status.FAILED),
        )
        .order_by(Job.finished_at.desc())
        .limit(MAX_ACTIVITIES)
    )
    for title, status, error, at, who, *keys in rows:
        kinds = zip(("dataset", "evaluation", "tokenizer", "checkpoint"), keys, strict=True)
        subject = next(((kind, key) for kind, key in kinds if key), None)
        yield Activity(at or since, OUTCOMES[Status(status)], title, _outcome(status, error.cause), who or "", subject)


def _votes(session: Session, since: datetime, *, sign_in: bool) -> Iterator[Activity]:
    last = func.max(Vote.created_at)
    rows = session.execute(
        select(Campaign.id, Campaign.name, Rater.id, Rater.name, func.count(), last)
        .join(Battle, Battle.campaign_id == Campaign.id)
        .join(Vote, Vote.battle_id == Battle.id)
        .join(Rater, Rater.id == Vote.rater_id)
        .where(Vote.created_at >= since, Battle.purpose == "vote", vote_holds())
        .group_by(Campaign.id, Campaign.name, Rater.id, Rater.name)
        .order_by(last.desc())
        .limit(MAX_ACTIVITIES)
    )
    for campaign_id, name, rater_id, rater, votes, at in rows:
        who = "before sign-in was set up" if sign_in and rater_id == LOCAL_RATER else rater
        yield Activity(at, ActivityKind.VOTED, name, f"got {plural(votes, 'vote')}", who, ("campaign", campaign_id))


def _campaigns(session: Session, since: datetime) -> Iterator[Activity]:
    rows = session.execute(
        select(Campaign.id, Campaign.name, Campaign.created_at, Campaign.closed_at, User.name)
        .outerjoin(User, User.id == Campaign.created_by)
        .where(or_(Campaign.created_at >= since, Campaign.closed_at >= since))
        .order_by(Campaign.created_at.desc())
        .limit(MAX_ACTIVITIES)
    )
    for campaign_id, name, opened, closed, who in rows:
        for at, text in ((opened, "opened for votes"), (closed, "closed")):
            if at is not None and at >= since:
                yield Activity(at, ActivityKind.CAMPAIGN, name, text, who or "", ("campaign", campaign_id))


def _deployments(session: Session, since: datetime) -> Iterator[Activity]:
    rows = session.execute(
        select(Endpoint.name, Checkpoint.name, Deployment.revision, Deployment.role, Deployment.created_at, User.name)
        .join(Deployment, Deployment.endpoint_id == Endpoint.id)
        .join(Checkpoint, Checkpoint.id == Deployment.checkpoint_id)
        .outerjoin(User, User.id == Deployment.created_by)
        .where(Deployment.created_at >= since)
        .order_by(Deployment.created_at.desc())
        .limit(MAX_ACTIVITIES)
    )
    for endpoint, checkpoint, revision, role, at, who in rows:
        variant = "" if role == "stable" else f" as a {role}"
        text = f"got revision {revision}{variant}: {checkpoint}"
        yield Activity(at, ActivityKind.DEPLOYED, endpoint, text, who or "", ("endpoint", endpoint))


def _decisions(session: Session, since: datetime) -> Iterator[Activity]:
    rows = session.execute(
        select(Alias.name, Checkpoint.id, Checkpoint.name, Promotion.decision, Promotion.created_at, User.name)
        .join(Promotion, Promotion.alias_id == Alias.id)
        .join(Checkpoint, Checkpoint.id == Promotion.checkpoint_id)
        .outerjoin(User, User.id == Promotion.created_by)
        .where(Promotion.created_at >= since)
        .order_by(Promotion.created_at.desc())
        .limit(MAX_ACTIVITIES)
    )
    for alias, checkpoint_id, checkpoint, decision, at, who in rows:
        text = f"was {DECISIONS.get(decision, decision)}: {alias}"
        yield Activity(at, ActivityKind.DECIDED, checkpoint, text, who or "", ("checkpoint", checkpoint_id))


def _alerts(session: Session, since: datetime) -> Iterator[Activity]:
    rows = session.execute(
        select(Alert.message, Alert.kind, Alert.opened_at, Alert.resolved_at)
        .where(Alert.opened_at >= since, Alert.kind.not_in(RUN_EVENTS))
        .order_by(Alert.opened_at.desc())
        .limit(MAX_ACTIVITIES)
    )
    for message, kind, at, resolved in rows:
        solved = "ended" if kind == DIVERGING_RUN else "resolved"
        yield Activity(at, ActivityKind.ALERT, message, solved if resolved else "open")


def _accounts(session: Session, since: datetime) -> Iterator[Activity]:
    rows = session.execute(
        select(User.name, User.role, User.created_at, User.disabled_at)
        .where(or_(User.created_at >= since, User.disabled_at >= since))
        .order_by(User.created_at.desc())
        .limit(MAX_ACTIVITIES)
    )
    for name, role, created, disabled in rows:
        for at, text in ((created, f"account was created, {role}"), (disabled, "account was disabled")):
            if at is not None and at >= since:
                yield Activity(at, ActivityKind.ACCOUNT, name, text)


def _keys(session: Session, since: datetime) -> Iterator[Activity]:
    """Yield keys that were created or revoked, except those that the product makes for itself."""
    rows = session.execute(
        select(ApiKey.name, ApiKey.hint, ApiKey.created_at, ApiKey.revoked_at, User.name)
        .outerjoin(User, User.id == ApiKey.user_id)
        .where(or_(ApiKey.created_at >= since, ApiKey.revoked_at >= since), ApiKey.name.not_in(OWN_KEYS))
        .order_by(ApiKey.created_at.desc())
        .limit(MAX_ACTIVITIES)
    )
    for name, hint, created, revoked, owner in rows:
        for at, text in ((created, f"key …{hint} was created"), (revoked, f"key …{hint} was revoked")):
            if at is not None and at >= since:
                yield Activity(at, ActivityKind.KEY, name, text, f"of {owner}" if owner else "")
