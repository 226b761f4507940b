"""Find the dependents of datasets, tokenizers, architectures and checkpoints: the reasons why they can't be deleted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import String, cast, false, func, or_, select
from sqlalchemy.orm import Session

from backend.db.tables import (
    Alias,
    Analysis,
    Campaign,
    Checkpoint,
    Contestant,
    Dataset,
    DatasetVersion,
    Deployment,
    Endpoint,
    EvaluatedEndpoint,
    Evaluation,
    Job,
    Run,
    RunGroup,
    RunSuite,
    SuiteResult,
    Tokenizer,
)
from backend.domain.evaluation.suites import Moment
from backend.domain.jobs.states import ACTIVE, JobKind, Status
from backend.domain.wording import list_first
from backend.errors import Conflict

SHOWN = 5


@dataclass(frozen=True)
class Use:
    """One dependent object: its kind as a noun, name and id. `str()` gives `run “First”`."""

    what: str
    name: str
    id: str

    def __str__(self) -> str:
        joint = " of" if self.what in ("evaluation", "report") else ""
        return f"{self.what}{joint} “{self.name}”"


def users_of_dataset(session: Session, dataset_id: str) -> list[Use]:
    """Return the dependents of any version of a dataset; see `users_of_versions`."""
    ids = list(session.scalars(select(DatasetVersion.id).where(DatasetVersion.dataset_id == dataset_id)))
    return users_of_versions(session, ids)


def users_of_versions(session: Session, ids: Sequence[str]) -> list[Use]:
    """Return the dependents of dataset versions.

    Runs, tokenizers, campaigns, evaluations and run groups; versions derived from or merged with them, unless they are
    among `ids`; reports about them, and reports that searched them as benchmarks.
    """
    if not ids:
        return []
    uses: list[Use] = []
    for what, table in (("run", Run), ("tokenizer", Tokenizer), ("campaign", Campaign)):
        rows = session.execute(
            select(table.id, table.name).where(table.dataset_version_id.in_(ids)).order_by(table.name)
        )
        uses += [Use(what, name, id_) for id_, name in rows]
    evaluated = session.execute(
        select(Evaluation.id, func.coalesce(Checkpoint.name, EvaluatedEndpoint.name))
        .outerjoin(Checkpoint, Evaluation.checkpoint_id == Checkpoint.id)
        .outerjoin(EvaluatedEndpoint, Evaluation.endpoint_id == EvaluatedEndpoint.id)
        .where(Evaluation.dataset_version_id.in_(ids))
        .order_by(func.coalesce(Checkpoint.name, EvaluatedEndpoint.name), Evaluation.created_at)
    )
    uses += [Use("evaluation", name, id_) for id_, name in evaluated]
    return [*uses, *_groups_on(session, ids), *_made_from(session, ids), *_reports_on(session, ids)]


def mentions(column: Any, texts: Sequence[str]) -> Any:
    """Return the SQL condition that a JSON column contains one of the texts as a JSON string."""
    return or_(false(), *(cast(column, String).contains(json.dumps(text), autoescape=True) for text in texts))


def _groups_on(session: Session, ids: Sequence[str]) -> list[Use]:
    """Return run groups with the dataset in their config; their runs are not listed one by one."""
    by_runs = select(Run.group_id).where(Run.dataset_version_id.in_(ids), Run.group_id.is_not(None))
    query = select(RunGroup.id, RunGroup.name).where(or_(RunGroup.id.in_(by_runs), mentions(RunGroup.config, ids)))
    return [Use("run group", name, id_) for id_, name in session.execute(query.order_by(RunGroup.name))]


def _made_from(session: Session, ids: Sequence[str]) -> list[Use]:
    query = (
        select(DatasetVersion.id, Dataset.name, DatasetVersion.number)
        .join(Dataset, Dataset.id == DatasetVersion.dataset_id)
        .outerjoin(Job, Job.id == DatasetVersion.job_id)
        .where(
            or_(DatasetVersion.parent_id.in_(ids), mentions(DatasetVersion.provenance, ids)),
            DatasetVersion.id.not_in(ids),
        )
        .where(or_(DatasetVersion.folder.is_not(None), Job.status.in_(ACTIVE)))
        .order_by(Dataset.name, DatasetVersion.number)
    )
    return [Use("version", f"{name}@{number}", id_) for id_, name, number in session.execute(query)]


def _reports_on(session: Session, ids: Sequence[str]) -> list[Use]:
    """Return reports about the versions, and reports that searched for the versions as benchmarks."""
    query = (
        select(Analysis.id, Dataset.name, DatasetVersion.number)
        .join(DatasetVersion, DatasetVersion.id == Analysis.dataset_version_id)
        .join(Dataset, Dataset.id == DatasetVersion.dataset_id)
        .where(or_(DatasetVersion.id.in_(ids), mentions(Analysis.config, ids)))
        .order_by(Dataset.name, Analysis.created_at)
    )
    return [Use("report", f"{name}@{number}", id_) for id_, name, number in session.execute(query)]


def users_of_tokenizer(session: Session, tokenizer_id: str) -> list[Use]:
    """Return the runs with a tokenizer. Reports on it do not count: they are deleted with it."""
    rows = session.execute(
        select(Run.id, Run.name).where(Run.tokenizer_id == tokenizer_id).order_by(Run.created_at, Run.name)
    )
    return [Use("run", name, id_) for id_, name in rows]


def users_of_architecture(session: Session, architecture_id: str) -> list[str]:
    """Return the runs with an architecture."""
    return [f"run “{name}”" for name in session.scalars(select(Run.name).where(Run.architecture_id == architecture_id))]


def users_of_checkpoint(session: Session, checkpoint_id: str) -> list[str]:
    """Return the users of a checkpoint's files: unfinished runs on it, adapters, deployments, running jobs, open
    campaigns, aliases."""
    checkpoint = session.get_one(Checkpoint, checkpoint_id)
    based = session.scalars(
        select(Run.name)
        .outerjoin(Job, Job.id == Run.job_id)
        .where(Run.base_id == checkpoint_id, Run.archived_at.is_(None), Job.status != Status.FINISHED)
    )
    adapters = session.scalars(
        select(Checkpoint.name).where(
            Checkpoint.parent_id == checkpoint_id, Checkpoint.is_adapter, Checkpoint.deleted_at.is_(None)
        )
    )
    endpoints = session.scalars(
        select(Endpoint.name)
        .join(Deployment, Deployment.endpoint_id == Endpoint.id)
        .where(Deployment.checkpoint_id == checkpoint_id, Deployment.stopped_at.is_(None))
    )
    beside = select(Endpoint.name, Deployment.config).join(Deployment, Deployment.endpoint_id == Endpoint.id)
    configs = session.execute(beside.where(Deployment.stopped_at.is_(None))).all()
    loaded = {
        name
        for name, config in configs
        if any(adapter.checkpoint_id == checkpoint_id for adapter in config.adapters.values())
    }
    drafting = {name for name, config in configs if config.draft == checkpoint_id}
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
        .where(
            or_(Analysis.checkpoint_id == checkpoint_id, Analysis.other_checkpoint_id == checkpoint_id),
            Job.status.in_(ACTIVE),
        )
        .distinct()
    )
    campaigns = session.scalars(
        select(Campaign.name)
        .join(Contestant, Contestant.campaign_id == Campaign.id)
        .where(Contestant.checkpoint_id == checkpoint_id, Campaign.closed_at.is_(None))
    )
    aliases = session.scalars(select(Alias.name).where(Alias.checkpoint_id == checkpoint_id))
    return [
        *(f"alias “{name}”" for name in aliases),
        *(f"run “{name}”, which starts from it" for name in based),
        *_resuming_run(session, checkpoint),
        *(f"adapter “{name}”, which needs it" for name in adapters),
        *(f"endpoint “{name}”" for name in endpoints),
        *(f"endpoint “{name}” (as an adapter)" for name in sorted(loaded)),
        *(f"endpoint “{name}” (as its draft)" for name in sorted(drafting)),
        *(f"running evaluation on “{name}”" for name in evaluations),
        *(f"running {'inspection' if kind == JobKind.INSPECT else 'analysis'}" for kind in analyses),
        *(f"open campaign “{name}”" for name in campaigns),
    ]


def missed_checkpoints(session: Session, ids: Sequence[str]) -> set[str]:
    """Return those of some checkpoints that something else would miss, for runs that remove their older ones.

    Deployments, also as an adapter or draft; aliases, contestants, runs that start from it, adapters on it, running
    analyses, and evaluations other than those of the suites that its run starts at each checkpoint.
    """
    if not ids:
        return set()
    references = [
        select(Alias.checkpoint_id).where(Alias.checkpoint_id.in_(ids)),
        select(Contestant.checkpoint_id).where(Contestant.checkpoint_id.in_(ids)),
        select(Deployment.checkpoint_id).where(Deployment.checkpoint_id.in_(ids), Deployment.stopped_at.is_(None)),
        select(Run.base_id).where(Run.base_id.in_(ids)),
        select(Checkpoint.parent_id).where(
            Checkpoint.parent_id.in_(ids), Checkpoint.is_adapter, Checkpoint.deleted_at.is_(None)
        ),
        *(
            select(column).join(Job, Job.id == Analysis.job_id).where(column.in_(ids), Job.status.in_(ACTIVE))
            for column in (Analysis.checkpoint_id, Analysis.other_checkpoint_id)
        ),
    ]
    missed = {id_ for query in references for id_ in session.scalars(query) if id_ is not None}
    for config in session.scalars(select(Deployment.config).where(Deployment.stopped_at.is_(None))):
        beside = {adapter.checkpoint_id for adapter in config.adapters.values()} | (
            {config.draft} if config.draft else set()
        )
        missed |= beside & {*ids}
    by_suites = (
        select(SuiteResult.members)
        .join(Checkpoint, Checkpoint.id == SuiteResult.checkpoint_id)
        .join(RunSuite, (RunSuite.suite_id == SuiteResult.suite_id) & (RunSuite.run_id == Checkpoint.run_id))
        .where(Checkpoint.id.in_(ids), RunSuite.moment == Moment.CHECKPOINT.value)
    )
    of_suites = {one.evaluation for members in session.scalars(by_suites) for one in members}
    evaluated = select(Evaluation.checkpoint_id, Evaluation.id).where(Evaluation.checkpoint_id.in_(ids))
    return missed | {str(one) for one, evaluation in session.execute(evaluated) if evaluation not in of_suites}


def _resuming_run(session: Session, checkpoint: Checkpoint) -> list[str]:
    """Return the unfinished run that would resume from this checkpoint, if it is the run's newest."""
    if checkpoint.run_id is None:
        return []
    run = session.get_one(Run, checkpoint.run_id)
    job = session.get(Job, run.job_id) if run.job_id else None
    if job is None or job.status not in {*ACTIVE, Status.PAUSED}:
        return []
    newest = session.scalar(
        select(Checkpoint.id)
        .where(Checkpoint.run_id == run.id, Checkpoint.deleted_at.is_(None))
        .order_by(Checkpoint.step.desc())
        .limit(1)
    )
    return [f"run “{run.name}”, which resumes from it"] if newest == checkpoint.id else []


def losses_of_checkpoint(session: Session, checkpoint_id: str) -> list[str]:
    """Return which ended runs can't be resumed without a checkpoint's files, or only from an earlier step."""
    checkpoint = session.get_one(Checkpoint, checkpoint_id)
    names = select(Run.name).where(Run.base_id == checkpoint_id).order_by(Run.created_at)
    losses = [f"Run “{name}” starts from it, and can't be resumed." for name in session.scalars(names)]
    if checkpoint.run_id is not None:
        steps = select(Checkpoint.step).where(
            Checkpoint.run_id == checkpoint.run_id,
            Checkpoint.id != checkpoint_id,
            Checkpoint.deleted_at.is_(None),
            Checkpoint.folder.is_not(None),
        )
        newest = max((step for step in session.scalars(steps) if step is not None), default=None)
        if newest is None:
            losses.append("Its own run has no other checkpoint, and can't be resumed.")
        elif checkpoint.step is not None and newest < checkpoint.step:
            losses.append(f"Its own run can be resumed from step {newest:,} only.")
    return losses


def refuse_while_used(what: str, name: str, users: Sequence[str | Use], *, remedy: str) -> None:
    """Raise Conflict naming the users, unless there are none."""
    if users:
        shown = list_first([str(user) for user in users], SHOWN)
        raise Conflict(f"The {what} “{name}” is in use: {shown}.", remedy=remedy)
