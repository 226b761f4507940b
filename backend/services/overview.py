"""Contents of the overview: gauges of the machines, runs, endpoints, results by benchmark and open campaigns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.db.tables import Campaign, Checkpoint, Deployment, Endpoint, Job, Replica, Run
from backend.domain.evaluation.config import is_score_lower_better
from backend.domain.jobs.states import ACTIVE, JobKind, Status
from backend.domain.training.comparisons import LossBasis
from backend.domain.training.objectives import Objective
from backend.domain.training.run_table import OBJECTIVE_NAMES
from backend.domain.training.sweep import goal_of_metric
from backend.services.battles.views import contestant_names, count_votes
from backend.services.context import Context, Person
from backend.services.evaluation.board import Column, read_columns
from backend.services.evaluation.comparisons import column_keys
from backend.services.evaluation.evaluations import EvaluationView, ScoreView, list_evaluations
from backend.services.jobs.jobs import JobView, view
from backend.services.jobs.workers import WorkerView, list_workers
from backend.services.next_steps import NextStep, next_steps
from backend.services.people.dismissals import read_dismissed
from backend.services.situation import read_situation
from backend.services.training.comparisons import loss_basis, measured_rows
from backend.services.training.diagnosis import diagnose_checkpoints
from backend.services.training.live import active_run_ids
from backend.services.training.views import RunView, get_runs, list_runs

EVALUATIONS_READ = 100
RUNS_COMPARED = 20
MAX_ALERTS = 8
NUM_RECENT = 5
MAX_STEPS = 3
MAX_BENCHMARKS = 3
MAX_RESULTS = 4


@dataclass(frozen=True)
class EndpointLine:
    """An endpoint that is deployed."""

    name: str
    num_ready: int
    num_replicas: int

    @property
    def is_ready(self) -> bool:
        """Return whether it answers, or will once it is asked: one without replicas is asleep."""
        return self.num_ready > 0 or self.num_replicas == 0


@dataclass(frozen=True)
class Gauges:
    """Load of the machines with a living worker, summed. Shares from 0 to 1; None if unknown."""

    num_workers: int
    cpu_share: float | None
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    num_gpus: int
    gpu_share: float | None
    gpu_memory_used_bytes: int
    gpu_memory_total_bytes: int
    disk_free_bytes: int
    disk_share: float


@dataclass(frozen=True)
class OverviewStrip:
    """The top of the overview: work in progress, load and health."""

    runs: tuple[RunView, ...]
    jobs: tuple[JobView, ...]
    gauges: Gauges
    endpoints: tuple[EndpointLine, ...]


@dataclass(frozen=True)
class ResultLine:
    """A checkpoint's newest score on a benchmark. `delta`: difference from the group's best; None for the best."""

    evaluation: EvaluationView
    score: ScoreView
    delta: float | None


@dataclass(frozen=True)
class BenchmarkResults:
    """Comparable scores on one benchmark, best first. `title` names it, and the task where it has several; `num_more`:
    lines left out.
    """

    title: str
    metric: str
    lines: tuple[ResultLine, ...]
    num_more: int


@dataclass(frozen=True)
class CampaignLine:
    """An open campaign and how many votes it has."""

    id: str
    name: str
    contestants: tuple[str, ...]
    num_votes: int


@dataclass(frozen=True)
class BestCheckpoint:
    """The best checkpoint of an objective among `num_checkpoints` of `num_runs` whose `metric` is measured alike: with
    the same loss, validation data and tokenizer as the newest run that measured it. `num_unmeasured`: those without
    it, which are not compared, as of a run that was stopped before a validation.
    """

    objective: str
    id: str
    name: str
    metric: str
    value: float
    data: str
    num_runs: int
    num_checkpoints: int
    num_unmeasured: int


@dataclass(frozen=True)
class Overview:
    """Everything below the strip."""

    alerts: tuple[NextStep, ...]
    steps: tuple[NextStep, ...]
    num_dismissed: int
    best: tuple[BestCheckpoint, ...]
    active: tuple[RunView, ...]
    recent: tuple[RunView, ...]
    results: tuple[BenchmarkResults, ...]
    campaigns: tuple[CampaignLine, ...]


def get_overview(ctx: Context, *, person: Person) -> Overview:
    """Return the contents of the overview for a person."""
    active = tuple(get_runs(ctx, active_run_ids(ctx)))
    recent = tuple(list_runs(ctx, limit=NUM_RECENT, ended=True))
    with ctx.db.read() as session:
        campaigns = tuple(_campaigns(session))
        best = tuple(_best_checkpoints(ctx, session))
    every = next_steps(read_situation(ctx, person))
    dismissed = read_dismissed(ctx, {step.key for step in every}, person=person)
    steps = [step for step in every if step.key not in dismissed]
    return Overview(
        alerts=tuple(step for step in steps if step.is_alert)[:MAX_ALERTS],
        steps=tuple(step for step in steps if not step.is_alert)[:MAX_STEPS],
        num_dismissed=len(dismissed),
        best=best,
        active=active,
        recent=recent,
        results=group_results(list_evaluations(ctx, limit=EVALUATIONS_READ)),
        campaigns=campaigns,
    )


def get_strip(ctx: Context) -> OverviewStrip:
    """Return work in progress, load and health. Called every few seconds: a few small queries."""
    with ctx.db.read() as session:
        endpoints = tuple(_endpoints(session))
        jobs = tuple(_other_jobs(session))
    return OverviewStrip(tuple(get_runs(ctx, active_run_ids(ctx))), jobs, read_load(ctx, list_workers(ctx)), endpoints)


def read_load(ctx: Context, workers: list[WorkerView]) -> Gauges:
    """Return the load of the machines with a living worker, once each, and the free space of the artifacts' disk."""
    alive = [worker for worker in workers if worker.is_alive]
    machines = list({worker.host: worker.gauges for worker in alive if worker.gauges}.values())
    cpus = [(gauges.cpu_percent / 100, gauges.cpu_count or 1) for gauges in machines if gauges.cpu_percent is not None]
    memory = [(gauges.memory_used_bytes, gauges.memory_total_bytes) for gauges in machines if gauges.memory_total_bytes]
    gpus = [gpu for gauges in machines for gpu in gauges.gpus]
    busy = [gpu.utilisation_percent / 100 for gpu in gpus if gpu.utilisation_percent is not None]
    cores = sum(count for _, count in cpus)
    return Gauges(
        num_workers=len(alive),
        cpu_share=sum(share * count for share, count in cpus) / cores if cores else None,
        memory_used_bytes=sum(used for used, _ in memory) if memory else None,
        memory_total_bytes=sum(total for _, total in memory) if memory else None,
        num_gpus=len(gpus),
        gpu_share=sum(busy) / len(busy) if busy else None,
        gpu_memory_used_bytes=sum(gpu.memory_used_bytes for gpu in gpus),
        gpu_memory_total_bytes=sum(gpu.memory_total_bytes for gpu in gpus),
        disk_free_bytes=ctx.artifacts.free_bytes(),
        disk_share=ctx.artifacts.disk_share(),
    )


def group_results(evaluations: list[EvaluationView]) -> tuple[BenchmarkResults, ...]:
    """Group comparable scores by benchmark, that of the newest first. `evaluations` are newest first."""
    groups: dict[str, dict[str, EvaluationView]] = {}
    finished = [one for one in evaluations if one.status is Status.FINISHED and one.main_score is not None]
    keys = column_keys(finished)
    for evaluation in finished:
        groups.setdefault(keys[evaluation.id], {}).setdefault(evaluation.subject_id, evaluation)
    titles = _titles([column for column, _ in read_columns(finished)])
    return tuple(
        _ranked(list(group.values()), title=titles[key]) for key, group in list(groups.items())[:MAX_BENCHMARKS]
    )


def _titles(columns: Sequence[Column]) -> dict[str, str]:
    """Return the title of each column by key: as the board names it, with its benchmark. A task that alone scores the
    benchmark of its name needs no words.
    """
    names = [column.benchmark for column in columns]
    titles = {}
    for column in columns:
        if column.benchmark in column.label:
            titles[column.key] = column.label
        elif names.count(column.benchmark) > 1:
            titles[column.key] = f"{column.benchmark} · {column.label}"
        else:
            titles[column.key] = f"{column.benchmark} ({column.detail})" if column.detail else column.benchmark
    return titles


def _ranked(evaluations: list[EvaluationView], *, title: str) -> BenchmarkResults:
    scored = [(evaluation, score) for evaluation in evaluations if (score := evaluation.main_score) is not None]
    metric = scored[0][1].metric
    scored.sort(key=lambda pair: pair[1].value if is_score_lower_better(metric) else -pair[1].value)
    best = scored[0][1].value
    lines = tuple(
        ResultLine(evaluation, score, score.value - best if number else None)
        for number, (evaluation, score) in enumerate(scored)
    )
    return BenchmarkResults(title, metric, lines[:MAX_RESULTS], max(0, len(lines) - MAX_RESULTS))


LIVE = (Checkpoint.folder.is_not(None), Checkpoint.deleted_at.is_(None), Checkpoint.archived_at.is_(None))


def _best_checkpoints(ctx: Context, session: Session) -> list[BestCheckpoint]:
    """Return the best checkpoint of each objective: among its newest runs that ended or were stopped and have
    checkpoints.
    """
    order = (Run.created_at.desc(), Run.id)
    place = func.row_number().over(partition_by=Run.objective, order_by=order).label("place")
    newest = (
        select(Run.id, place)
        .join(Job, Job.id == Run.job_id)
        .where(
            Run.archived_at.is_(None),
            Job.status.in_([Status.FINISHED, Status.CANCELLED]),
            Run.id.in_(select(Checkpoint.run_id).where(*LIVE)),
        )
        .subquery()
    )
    query = select(Run).join(newest, newest.c.id == Run.id).where(newest.c.place <= RUNS_COMPARED).order_by(*order)
    groups: dict[str, dict[tuple[object, ...], tuple[LossBasis, list[str]]]] = {}
    for run in session.scalars(query):
        basis = loss_basis(ctx, session, run)
        alone = run.id if None in basis.key else None  # an unknown tokenizer or dataset is like no other
        key = (*basis.key, *measured_rows(run), alone)
        groups.setdefault(run.objective, {}).setdefault(key, (basis, []))[1].append(run.id)
    best = []
    for objective in OBJECTIVE_NAMES:
        alike = groups.get(objective, {}).values()
        candidates = (_best_of(ctx, session, objective, basis, run_ids) for basis, run_ids in alike)
        if (first := next(filter(None, candidates), None)) is not None:
            best.append(first)
    return best


def _best_of(
    ctx: Context, session: Session, objective: str, basis: LossBasis, run_ids: list[str]
) -> BestCheckpoint | None:
    metric = Objective(objective).facts.metrics[0]
    sign = 1 if goal_of_metric(metric) == "lowest" else -1
    checkpoints = session.scalars(select(Checkpoint).where(Checkpoint.run_id.in_(run_ids), *LIVE)).all()
    useless = {one.id for one in diagnose_checkpoints(ctx, [each.id for each in checkpoints]) if one.is_useless}
    usable = [one for one in checkpoints if one.id not in useless]
    measured = [
        (sign * value, one.name, one)
        for one in usable
        if isinstance(value := one.metrics.get(metric), int | float) and math.isfinite(value)
    ]
    if not measured:
        return None
    value, _, best = min(measured, key=lambda each: each[:2])
    return BestCheckpoint(
        objective,
        best.id,
        best.name,
        metric,
        sign * value,
        basis.data.name,
        len({one.run_id for _, _, one in measured}),
        len(measured),
        len(usable) - len(measured),
    )


def _other_jobs(session: Session) -> list[JobView]:
    """Return queued and running jobs other than training and serving, running ones first."""
    query = select(Job).where(Job.status.in_(ACTIVE), Job.kind.not_in([JobKind.TRAIN.value, JobKind.REPLICA.value]))
    return [
        view(job) for job in session.scalars(query.order_by(Job.status.desc(), Job.priority, Job.created_at).limit(20))
    ]


def _endpoints(session: Session) -> list[EndpointLine]:
    ready = (
        select(func.count())
        .where(Replica.deployment_id == Deployment.id, Replica.status == "ready")
        .correlate(Deployment)
        .scalar_subquery()
    )
    rows = session.execute(
        select(Endpoint.name, ready, Deployment.num_replicas)
        .join(Deployment, Deployment.endpoint_id == Endpoint.id)
        .where(Deployment.stopped_at.is_(None), Deployment.role == "stable")
        .order_by(Deployment.created_at.desc())
    )
    lines: dict[str, EndpointLine] = {}
    for name, num_ready, num_replicas in rows:  # the deployment that another replaces answers until it is stopped
        newer = lines.get(name, EndpointLine(name, 0, num_replicas))
        lines[name] = EndpointLine(name, newer.num_ready + num_ready, newer.num_replicas)
    return list(lines.values())


def _campaigns(session: Session) -> list[CampaignLine]:
    campaigns = session.scalars(
        select(Campaign).where(Campaign.closed_at.is_(None)).order_by(Campaign.created_at.desc()).limit(4)
    ).all()
    return [
        CampaignLine(
            row.id, row.name, tuple(contestant_names(session, row.id).values()), count_votes(session, row.id)[0]
        )
        for row in campaigns
    ]
