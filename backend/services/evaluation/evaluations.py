"""Launch, list and record evaluations: one benchmark on one checkpoint or endpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.engine import retry_races
from backend.db.tables import Checkpoint, Dataset, DatasetVersion, Evaluation, Job, Score
from backend.domain.attributes import view_of
from backend.domain.evaluation.boards import describe_average
from backend.domain.evaluation.config import EvaluationConfig, EvaluationKind, fingerprint_of, settings_of
from backend.domain.evaluation.endpoints import ENGINE, JudgeTarget, check_request
from backend.domain.evaluation.metrics.items import INSTRUCTIONS
from backend.domain.evaluation.safety.reports import ToxicityReport
from backend.domain.jobs.payloads import EvaluatePayload, require_folder
from backend.domain.jobs.results import EvaluationFacts, EvaluationRecord
from backend.domain.jobs.states import ACTIVE, Status
from backend.domain.statistics.power import PowerPlan
from backend.errors import InvalidInput, NotFound, require_library
from backend.services.checkpoints.checkpoints import CheckpointView, require_writer, resolve_checkpoint
from backend.services.context import Context, Person, require_builder
from backend.services.data.views import VersionView
from backend.services.evaluation.endpoints import (
    EvaluatedEndpointView,
    identity_of,
    read_subjects,
    resolve_evaluated,
    resume_evaluation,
    store_own,
    target_of,
)
from backend.services.evaluation.judges.metric import resolve_task_judge
from backend.services.evaluation.power import plan_comparison
from backend.services.evaluation.scoring_choice import Split, choose_kind, choose_split
from backend.services.evaluation.task_fit import check_task, examples_folder, resolve_benchmark
from backend.services.jobs.jobs import JobState, add_job, job_state, wake
from backend.services.lookups import find_row


@dataclass(frozen=True)
class ScoreView:
    """An evaluation's number with its error and interval, by `method`, over all items or those of a `subgroup`."""

    metric: str
    value: float
    stderr: float | None
    low: float | None
    high: float | None
    n: int
    method: str
    subgroup: str = ""


@dataclass(frozen=True, kw_only=True)
class EvaluationView(JobState):
    """An evaluation. `benchmark` is `name@version`; `settings` determine the score, `facts` are reported by the job.

    `checkpoint` is the name of what was evaluated: a checkpoint, or an endpoint where `endpoint` is set.
    """

    id: str
    checkpoint_id: str | None
    checkpoint: str
    version_id: str
    benchmark: str
    kind: EvaluationKind
    config: EvaluationConfig
    settings: dict[str, Any]
    facts: EvaluationFacts
    fingerprint: str
    job_id: str | None
    scores: tuple[ScoreView, ...]
    created_at: datetime
    finished_at: datetime | None
    endpoint: EvaluatedEndpointView | None = None
    toxicity: ToxicityReport = field(default_factory=ToxicityReport)
    reused: bool = False  # a launch found the same measurement made or under way

    @property
    def subject_id(self) -> str:
        """Id of the checkpoint or endpoint."""
        return self.checkpoint_id or (self.endpoint.id if self.endpoint else "")

    @property
    def way(self) -> str:
        """Name of the task that scored it, or its kind without a task: two ways are two measurements of a benchmark."""
        return self.config.task.name if self.config.task else self.kind.value

    @property
    def main_metric(self) -> str:
        """The headline, by which the evaluation is ranked on every page."""
        return self.config.main_metric(self.kind)

    @property
    def main_score(self) -> ScoreView | None:
        """The evaluation's main score, shown in tables."""
        return self.score(self.main_metric)

    @property
    def totals(self) -> tuple[ScoreView, ...]:
        """The scores over all items."""
        return tuple(score for score in self.scores if not score.subgroup)

    def score(self, metric: str) -> ScoreView | None:
        """Return the score of a metric over all items, if there is one."""
        return next((score for score in self.totals if score.metric == metric), None)

    def average_of(self, metric: str) -> str:
        """Return over what a metric is averaged: `macro over 57 subgroups`; empty without subgroups."""
        groups, name = self.config.task.groups if self.config.task else {}, metric.partition(":")[0]
        subgroups = [
            score.subgroup
            for score in self.scores
            if score.subgroup and score.metric == name and score.subgroup not in groups
        ]
        return describe_average(metric, [score.metric for score in self.totals], num_subgroups=len(subgroups))


@dataclass(frozen=True)
class Plan:
    """Preview of an evaluation. `power`: what comparing two checkpoints on these items can detect; None for texts."""

    kind: EvaluationKind
    split: Split
    items: int
    power: PowerPlan | None


@retry_races
def launch_evaluation(
    ctx: Context,
    *,
    benchmark: str,
    person: Person,
    checkpoint: str | None = None,
    endpoint: str | None = None,
    config: EvaluationConfig | None = None,
    idempotency_key: str | None = None,
    again: bool = False,
) -> EvaluationView:
    """Queue the evaluation of a checkpoint or an endpoint (name or id) on a benchmark (`name`, `name@version`, any
    dataset with text).

    A measurement that was made already, or is under way, with the same settings is returned as `reused`, unless
    `again`; that of an endpoint which failed or was stopped is resumed. Raises NotFound, Conflict if subject or dataset
    is not ready, InvalidInput if the dataset or the endpoint can't be scored that way, NotAllowed.
    """
    require_builder(person)
    config = config or EvaluationConfig()
    if config.engine == "lm_eval":
        require_library("lm_eval", extra="harness", needed_for="The engine lm_eval")
    if config.task is not None and any(metric.name == INSTRUCTIONS for metric in config.task.metrics):
        require_library("langdetect", extra="harness", needed_for="IFEval's language of an answer")
    subject = resolve_subject(ctx, checkpoint, endpoint)
    version = resolve_benchmark(ctx, benchmark, task=config.task)
    chosen, split = _choose(ctx, version, config)
    if isinstance(subject, EvaluatedEndpointView):
        check_request(subject.name, config, chosen, subject.capabilities)
    if config.task is not None:
        check_task(ctx, config.task, version, split=split, config=config)
    engine, identity = (
        (ENGINE, identity_of(ctx, subject)) if isinstance(subject, EvaluatedEndpointView) else (None, subject.id)
    )
    settings = settings_of(
        config, kind=chosen, dataset_hash=version.content_hash or version.id, split=split, engine=engine
    )
    judge = resolve_task_judge(ctx, config)
    settings |= {"judge": judge[1]} if judge else {}
    fingerprint = fingerprint_of(settings, subject=identity)
    with ctx.db.write() as session:
        if isinstance(subject, CheckpointView):
            require_writer(session, subject.id)
        existing_id = _already_there(
            session, fingerprint=None if again else fingerprint, idempotency_key=idempotency_key
        )
        evaluation_id = existing_id
        if evaluation_id is None and isinstance(subject, EvaluatedEndpointView) and not again:
            evaluation_id = resume_evaluation(
                session,
                ctx,
                fingerprint=fingerprint,
                target=target_of(ctx, subject),
                judge=judge[0] if judge else None,
                person=person,
            )
        evaluation_id = evaluation_id or _add_evaluation(
            session,
            ctx,
            subject=subject,
            version=version,
            kind=chosen,
            split=split,
            config=config,
            settings=settings,
            fingerprint=fingerprint,
            person=person,
            judge=judge[0] if judge else None,
            idempotency_key=idempotency_key,
        )
    if existing_id is None:
        wake(ctx, "eval")
    return replace(get_evaluation(ctx, evaluation_id), reused=existing_id is not None)


def resolve_subject(
    ctx: Context, checkpoint: str | None, endpoint: str | None
) -> CheckpointView | EvaluatedEndpointView:
    """Return the checkpoint or the endpoint that is named. Raises InvalidInput unless one of them is, and what
    resolving them raises.
    """
    if (checkpoint is None) == (endpoint is None):
        raise InvalidInput(
            "An evaluation has one subject.", remedy="Name a checkpoint or an endpoint.", field="checkpoint"
        )
    return resolve_checkpoint(ctx, checkpoint) if checkpoint is not None else resolve_evaluated(ctx, endpoint or "")


def launch_again(ctx: Context, evaluation: EvaluationView, *, person: Person, again: bool = False) -> EvaluationView:
    """Launch what an evaluation measured once more; see `launch_evaluation`."""
    return launch_evaluation(
        ctx,
        checkpoint=evaluation.checkpoint_id,
        endpoint=evaluation.endpoint.id if evaluation.endpoint else None,
        benchmark=evaluation.version_id,
        config=evaluation.config,
        person=person,
        again=again,
    )


def plan_evaluation(ctx: Context, *, benchmark: str, config: EvaluationConfig) -> Plan:
    """Preview an evaluation. Raises what `launch_evaluation` raises about the dataset."""
    version = resolve_benchmark(ctx, benchmark, task=config.task)
    kind, split = _choose(ctx, version, config)
    rows = {"train": version.train_rows, "val": version.val_rows, "all": version.rows}[split]
    if config.task is not None:
        rows = check_task(ctx, config.task, version, split=split, config=config)
    rows = max(0, rows - (0 if kind is EvaluationKind.PERPLEXITY else config.shots))
    items = min(rows, config.limit or rows)
    power = plan_comparison(ctx, version_id=version.id, kind=kind, items=items, metric=config.main_metric(kind))
    return Plan(kind, split, items, power)


def _choose(ctx: Context, version: VersionView, config: EvaluationConfig) -> tuple[EvaluationKind, Split]:
    """Return how a dataset is scored, and which split: as the task says, if there is one."""
    if config.task is None:
        return choose_kind(ctx, version, config.kind), choose_split(version, config.split)
    requested = config.split if config.split != "auto" else config.task.data.split
    return EvaluationKind(config.task.kind), choose_split(version, requested)


def _already_there(session: Session, *, fingerprint: str | None, idempotency_key: str | None) -> str | None:
    query = select(Evaluation.id).join(Job, Job.id == Evaluation.job_id).order_by(Evaluation.created_at.desc()).limit(1)
    if idempotency_key:
        existing_id = session.scalar(query.where(Job.idempotency_key == idempotency_key))
        if existing_id:
            return existing_id
    if fingerprint is None:
        return None
    return session.scalar(
        query.where(Evaluation.fingerprint == fingerprint, Job.status.in_([*ACTIVE, Status.FINISHED]))
    )


def _add_evaluation(
    session: Session,
    ctx: Context,
    *,
    subject: CheckpointView | EvaluatedEndpointView,
    version: VersionView,
    kind: EvaluationKind,
    split: Split,
    config: EvaluationConfig,
    settings: Mapping[str, object],
    fingerprint: str,
    person: Person,
    judge: JudgeTarget | None,
    idempotency_key: str | None,
) -> str:
    is_endpoint = isinstance(subject, EvaluatedEndpointView)
    row = Evaluation(
        checkpoint_id=None if is_endpoint else subject.id,
        endpoint_id=(
            store_own(session, ctx, subject, person=person) if isinstance(subject, EvaluatedEndpointView) else None
        ),
        dataset_version_id=version.id,
        kind=kind.value,
        fingerprint=fingerprint,
        created_by=person.id,
        record=EvaluationRecord(config=config, settings=settings),
        created_at=ctx.now(),
    )
    session.add(row)
    session.flush()
    payload = EvaluatePayload(
        evaluation_id=row.id,
        checkpoint=require_folder(subject.folder, what="checkpoint") if isinstance(subject, CheckpointView) else None,
        endpoint=target_of(ctx, subject) if isinstance(subject, EvaluatedEndpointView) else None,
        dataset=require_folder(version.folder, what="dataset"),
        kind=kind,
        split=split,
        config=config,
        fingerprint=fingerprint,
        examples=examples_folder(ctx, config.task),
        run_code=ctx.policy.run_code,
        judge=judge,
    )
    job = add_job(
        session,
        ctx,
        payload,
        device="cpu" if is_endpoint else "auto",
        title=f"{config.task.shown_title if config.task else version.label} on {subject.name}",
        idempotency_key=idempotency_key,
        created_by=person.id,
    )
    row.job_id = job.id
    session.flush()
    return str(row.id)


def list_evaluations(
    ctx: Context,
    *,
    checkpoint_id: str | None = None,
    endpoint_id: str | None = None,
    version_id: str | None = None,
    limit: int = 500,
) -> list[EvaluationView]:
    """Return evaluations with their scores, newest first."""
    query = select(Evaluation).order_by(Evaluation.created_at.desc(), Evaluation.id).limit(limit)
    if checkpoint_id:
        query = query.where(Evaluation.checkpoint_id == checkpoint_id)
    if endpoint_id:
        query = query.where(Evaluation.endpoint_id == endpoint_id)
    if version_id:
        query = query.where(Evaluation.dataset_version_id == version_id)
    with ctx.db.read() as session:
        return _views(session, list(session.scalars(query)))


def of_what_is_served(
    ctx: Context, subject: CheckpointView | EvaluatedEndpointView, evaluations: Sequence[EvaluationView]
) -> list[EvaluationView]:
    """Return the evaluations of what answers now: those of a checkpoint all do, those of an endpoint only if they were
    made of the checkpoint (or the model and address) that it serves today.
    """
    if isinstance(subject, CheckpointView):
        return list(evaluations)
    try:
        identity = identity_of(ctx, subject)
    except NotFound:  # an endpoint that is gone serves nothing
        return []
    return [one for one in evaluations if one.fingerprint == fingerprint_of(one.settings, subject=identity)]


def get_evaluation(ctx: Context, evaluation_id: str) -> EvaluationView:
    """Return an evaluation. Raises NotFound."""
    with ctx.db.read() as session:
        return _views(session, [find_evaluation(session, evaluation_id)])[0]


def find_evaluation(session: Session, evaluation_id: str) -> Evaluation:
    """Return the row of an evaluation. Raises NotFound."""
    remedy = "It may belong to another installation; see the list."
    return find_row(session, Evaluation, evaluation_id, what="evaluation", remedy=remedy)


def get_evaluations(ctx: Context, evaluation_ids: Sequence[str]) -> list[EvaluationView]:
    """Return the evaluations with these ids, in their order; unknown ids are skipped."""
    with ctx.db.read() as session:
        views = {
            one.id: one
            for one in _views(
                session, session.scalars(select(Evaluation).where(Evaluation.id.in_(evaluation_ids))).all()
            )
        }
    return [views[one] for one in evaluation_ids if one in views]


def _views(session: Session, rows: Sequence[Evaluation]) -> list[EvaluationView]:
    ids = [row.id for row in rows]
    scores: dict[str, list[ScoreView]] = {}
    for s in session.scalars(select(Score).where(Score.evaluation_id.in_(ids)).order_by(Score.id)):
        scores.setdefault(s.evaluation_id, []).append(
            ScoreView(s.metric, s.value, s.stderr, s.low, s.high, s.n, s.method, s.subgroup)
        )
    checkpoint_ids = {r.checkpoint_id for r in rows if r.checkpoint_id}
    names = dict(session.execute(select(Checkpoint.id, Checkpoint.name).where(Checkpoint.id.in_(checkpoint_ids))).all())
    endpoints = read_subjects(session, (r.endpoint_id for r in rows if r.endpoint_id))
    versions = {
        key: f"{name}@{number}"
        for key, name, number in session.execute(
            select(DatasetVersion.id, Dataset.name, DatasetVersion.number)
            .join(Dataset, Dataset.id == DatasetVersion.dataset_id)
            .where(DatasetVersion.id.in_({r.dataset_version_id for r in rows}))
        )
    }
    jobs = {job.id: job for job in session.scalars(select(Job).where(Job.id.in_({r.job_id for r in rows if r.job_id})))}
    return [
        _view(
            row,
            names.get(row.checkpoint_id or "", ""),
            versions[row.dataset_version_id],
            jobs.get(row.job_id or ""),
            scores.get(row.id, []),
            endpoints.get(row.endpoint_id or ""),
        )
        for row in rows
    ]


def _view(
    row: Evaluation,
    checkpoint: str,
    benchmark: str,
    job: Job | None,
    scores: Sequence[ScoreView],
    endpoint: EvaluatedEndpointView | None,
) -> EvaluationView:
    return view_of(
        EvaluationView,
        row,
        checkpoint=endpoint.name if endpoint else checkpoint,
        endpoint=endpoint,
        version_id=row.dataset_version_id,
        benchmark=benchmark,
        kind=EvaluationKind(row.kind),
        settings=row.record.settings,
        facts=row.record.facts,
        toxicity=row.record.toxicity,
        **job_state(job),
        scores=tuple(scores),
        finished_at=job.finished_at if job else None,
    )
