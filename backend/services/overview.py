"""What the first page shows: what runs, what waits, what serves, what was found, and a newcomer's next step."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, or_, select
from sqlalchemy.orm import Session

from backend.db.tables import (
    Campaign,
    Checkpoint,
    Contestant,
    Dataset,
    DatasetVersion,
    Deployment,
    Endpoint,
    Evaluation,
    Job,
    Message,
    Replica,
    Score,
    Usage,
    Vote,
)
from backend.domain.evaluation.config import MAIN_METRIC
from backend.domain.jobs.states import ACTIVE, JobKind, Status
from backend.services.battles.views import count_votes
from backend.services.context import Context
from backend.services.jobs.jobs import JobView, view
from backend.services.training.live import active_run_ids
from backend.services.training.views import RunView, get_runs, list_runs


@dataclass(frozen=True)
class Step:
    """One of the five steps of a newcomer. `is_next` marks the first that is not done."""

    name: str
    is_done: bool
    is_next: bool


@dataclass(frozen=True)
class EndpointLine:
    """An endpoint that is deployed."""

    name: str
    checkpoint: str
    checkpoint_id: str
    num_ready: int
    num_replicas: int


@dataclass(frozen=True)
class ResultLine:
    """A score: what was measured on what, with its interval."""

    evaluation_id: str
    checkpoint: str
    checkpoint_id: str
    benchmark: str
    metric: str
    value: float
    low: float | None
    high: float | None
    created_at: datetime


@dataclass(frozen=True)
class CampaignLine:
    """An open campaign and how many votes it has."""

    id: str
    name: str
    contestants: tuple[str, ...]
    num_votes: int


@dataclass(frozen=True)
class Overview:
    """Everything on the first page."""

    steps: tuple[Step, ...]
    active: tuple[RunView, ...]
    recent: tuple[RunView, ...]
    other_jobs: tuple[JobView, ...]
    endpoints: tuple[EndpointLine, ...]
    results: tuple[ResultLine, ...]
    campaigns: tuple[CampaignLine, ...]

    @property
    def is_newcomer(self) -> bool:
        """Whether one of the five steps was never taken."""
        return any(not step.is_done for step in self.steps)

    @property
    def next_step(self) -> str | None:
        """The name of the step to take next."""
        return next((step.name for step in self.steps if step.is_next), None)


def get_overview(ctx: Context, *, num_recent: int = 5) -> Overview:
    """Return what the first page shows, in a handful of small queries."""
    active = tuple(get_runs(ctx, active_run_ids(ctx)))
    recent = tuple(run for run in list_runs(ctx, limit=num_recent + len(active)) if not run.is_active)[:num_recent]
    with ctx.db.read() as session:
        return Overview(
            steps=read_steps(session),
            active=active,
            recent=recent,
            other_jobs=tuple(list_other_jobs(ctx)),
            endpoints=tuple(_endpoints(session)),
            results=tuple(_results(session)),
            campaigns=tuple(_campaigns(session)),
        )


def read_steps(session: Session) -> tuple[Step, ...]:
    """Return the five steps: data, train, evaluate, vote, deploy."""
    finished = select(Job.id).where(Job.status == Status.FINISHED)
    done = {
        "data": _any(session, select(DatasetVersion.id).where(DatasetVersion.folder.is_not(None))),
        "train": _any(session, select(Checkpoint.id).where(Checkpoint.origin == "run", Checkpoint.folder.is_not(None))),
        "evaluate": _any(session, select(Evaluation.id).where(Evaluation.job_id.in_(finished))),
        "vote": _any(session, select(Vote.id)),
        "deploy": _any(session, select(Deployment.id)) and (_any(session, select(Message.id)) or _any(session, select(Usage.id))),
    }
    following = next((name for name, is_done in done.items() if not is_done), None)
    return tuple(Step(name, is_done, name == following) for name, is_done in done.items())


def _any(session: Session, query: Select[Any]) -> bool:
    return session.execute(query.limit(1)).first() is not None


def list_other_jobs(ctx: Context) -> list[JobView]:
    """Return what is queued or running besides training and serving, the running first."""
    query = select(Job).where(Job.status.in_(ACTIVE), Job.kind.not_in([JobKind.TRAIN.value, JobKind.REPLICA.value]))
    with ctx.db.read() as session:
        return [view(job) for job in session.scalars(query.order_by(Job.status.desc(), Job.priority, Job.created_at).limit(20))]


def _endpoints(session: Session) -> list[EndpointLine]:
    ready = (
        select(func.count())
        .where(Replica.deployment_id == Deployment.id, Replica.status == "ready")
        .correlate(Deployment)
        .scalar_subquery()
    )
    rows = session.execute(
        select(Endpoint.name, Checkpoint.name, Checkpoint.id, ready, Deployment.num_replicas)
        .join(Deployment, Deployment.endpoint_id == Endpoint.id)
        .join(Checkpoint, Checkpoint.id == Deployment.checkpoint_id)
        .where(Deployment.stopped_at.is_(None))
        .order_by(Deployment.created_at.desc())
        .limit(6)
    )
    return [EndpointLine(*row) for row in rows]


def _results(session: Session) -> list[ResultLine]:
    """Return the main scores of the newest evaluations."""
    main = [(Evaluation.kind == kind.value) & (Score.metric == metric) for kind, metric in MAIN_METRIC.items()]
    rows = session.execute(
        select(
            Evaluation.id,
            Checkpoint.name,
            Checkpoint.id,
            Dataset.name,
            Score.metric,
            Score.value,
            Score.low,
            Score.high,
            Evaluation.created_at,
        )
        .join(Score, Score.evaluation_id == Evaluation.id)
        .join(Checkpoint, Checkpoint.id == Evaluation.checkpoint_id)
        .join(DatasetVersion, DatasetVersion.id == Evaluation.dataset_version_id)
        .join(Dataset, Dataset.id == DatasetVersion.dataset_id)
        .where(or_(*main))
        .order_by(Evaluation.created_at.desc(), Evaluation.id)
        .limit(6)
    )
    return [ResultLine(*row) for row in rows]


def _campaigns(session: Session) -> list[CampaignLine]:
    campaigns = session.scalars(select(Campaign).where(Campaign.closed_at.is_(None)).order_by(Campaign.created_at.desc()).limit(4)).all()
    return [CampaignLine(row.id, row.name, tuple(_contestants(session, row.id)), count_votes(session, row.id)[0]) for row in campaigns]


def _contestants(session: Session, campaign_id: str) -> list[str]:
    query = select(Checkpoint.name).join(Contestant, Contestant.checkpoint_id == Checkpoint.id).where(Contestant.campaign_id == campaign_id)
    return list(session.scalars(query.order_by(Contestant.created_at)))
