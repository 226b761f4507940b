"""Who uses what: the reasons why a dataset, tokenizer, architecture or checkpoint can't be deleted, in words."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from backend.db.tables import (
    Analysis,
    Campaign,
    Checkpoint,
    Contestant,
    Dataset,
    DatasetVersion,
    Deployment,
    Endpoint,
    Evaluation,
    Job,
    Run,
    Tokenizer,
)
from backend.domain.job_states import ACTIVE, JobKind, Status
from backend.errors import Conflict

SHOWN = 5


def users_of_dataset(session: Session, dataset_id: str) -> list[str]:
    """Return what refers to any version of a dataset: runs, tokenizers, evaluations, campaigns."""
    ids = list(session.scalars(select(DatasetVersion.id).where(DatasetVersion.dataset_id == dataset_id)))
    return users_of_versions(session, ids)


def users_of_versions(session: Session, ids: Sequence[str]) -> list[str]:
    """Return what refers to some dataset versions."""
    runs = session.scalars(select(Run.name).where(Run.dataset_version_id.in_(ids)))
    tokenizers = session.scalars(select(Tokenizer.name).where(Tokenizer.dataset_version_id.in_(ids)))
    campaigns = session.scalars(select(Campaign.name).where(Campaign.dataset_version_id.in_(ids)))
    evaluated = session.scalars(
        select(Checkpoint.name)
        .join(Evaluation, Evaluation.checkpoint_id == Checkpoint.id)
        .where(Evaluation.dataset_version_id.in_(ids))
        .distinct()
    )
    return [
        *(f"run “{name}”" for name in runs),
        *(f"tokenizer “{name}”" for name in tokenizers),
        *(f"campaign “{name}”" for name in campaigns),
        *(f"evaluation of “{name}”" for name in evaluated),
    ]


def users_of_tokenizer(session: Session, tokenizer_id: str) -> list[str]:
    """Return the runs that were given a tokenizer."""
    return [f"run “{name}”" for name in session.scalars(select(Run.name).where(Run.tokenizer_id == tokenizer_id))]


def users_of_architecture(session: Session, architecture_id: str) -> list[str]:
    """Return the runs that were given an architecture."""
    return [f"run “{name}”" for name in session.scalars(select(Run.name).where(Run.architecture_id == architecture_id))]


def users_of_checkpoint(session: Session, checkpoint_id: str) -> list[str]:
    """Return what would break if a checkpoint's files went: unfinished runs on it, adapters, deployments, running jobs, open campaigns."""
    checkpoint = session.get_one(Checkpoint, checkpoint_id)
    based = session.scalars(
        select(Run.name)
        .outerjoin(Job, Job.id == Run.job_id)
        .where(Run.base_id == checkpoint_id, Run.archived_at.is_(None), Job.status != Status.FINISHED)
    )
    adapters = session.scalars(
        select(Checkpoint.name).where(Checkpoint.parent_id == checkpoint_id, Checkpoint.is_adapter, Checkpoint.deleted_at.is_(None))
    )
    endpoints = session.scalars(
        select(Endpoint.name)
        .join(Deployment, Deployment.endpoint_id == Endpoint.id)
        .where(Deployment.checkpoint_id == checkpoint_id, Deployment.stopped_at.is_(None))
    )
    evaluations = session.scalars(
        select(Dataset.name)
        .join(DatasetVersion, DatasetVersion.dataset_id == Dataset.id)
        .join(Evaluation, Evaluation.dataset_version_id == DatasetVersion.id)
        .join(Job, Job.id == Evaluation.job_id)
        .where(Evaluation.checkpoint_id == checkpoint_id, Job.status.in_(ACTIVE))
    )
    analyses = session.scalars(
        select(Job.kind)
        .join(Analysis, Analysis.job_id == Job.id)
        .where(or_(Analysis.checkpoint_id == checkpoint_id, Analysis.other_checkpoint_id == checkpoint_id), Job.status.in_(ACTIVE))
        .distinct()
    )
    campaigns = session.scalars(
        select(Campaign.name)
        .join(Contestant, Contestant.campaign_id == Campaign.id)
        .where(Contestant.checkpoint_id == checkpoint_id, Campaign.closed_at.is_(None))
    )
    return [
        *(f"run “{name}”, which starts from it" for name in based),
        *_resuming_run(session, checkpoint),
        *(f"adapter “{name}”, which needs it" for name in adapters),
        *(f"endpoint “{name}”" for name in endpoints),
        *(f"running evaluation on “{name}”" for name in evaluations),
        *(f"running {'inspection' if kind == JobKind.INSPECT else 'analysis'}" for kind in analyses),
        *(f"open campaign “{name}”" for name in campaigns),
    ]


def _resuming_run(session: Session, checkpoint: Checkpoint) -> list[str]:
    """Return the unfinished run that would resume from this checkpoint: it is the newest one the run still has."""
    if checkpoint.run_id is None:
        return []
    run = session.get_one(Run, checkpoint.run_id)
    job = session.get(Job, run.job_id) if run.job_id else None
    if job is None or job.status not in {*ACTIVE, Status.PAUSED}:
        return []
    newest = session.scalar(
        select(Checkpoint.id).where(Checkpoint.run_id == run.id, Checkpoint.deleted_at.is_(None)).order_by(Checkpoint.step.desc()).limit(1)
    )
    return [f"run “{run.name}”, which resumes from it"] if newest == checkpoint.id else []


def refuse_while_used(what: str, name: str, users: list[str], *, remedy: str) -> None:
    """Raise Conflict naming the users, unless there are none."""
    if users:
        shown = ", ".join(users[:SHOWN]) + (f" and {len(users) - SHOWN} more" if len(users) > SHOWN else "")
        raise Conflict(f"The {what} “{name}” is in use: {shown}.", remedy=remedy)
