"""Suites: named lists of benchmarks, run on checkpoints as evaluations, on request or during a training run; and the
scores of a run's checkpoints along its training steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from backend.db.tables import Checkpoint, Evaluation, Job, Suite, SuiteResult
from backend.domain.attributes import view_of
from backend.domain.evaluation.config import EvaluationConfig
from backend.domain.evaluation.suites import MemberOutcome, SuiteConfig, SuiteMember
from backend.domain.evaluation.tasks.definition import TaskDefinition
from backend.domain.evaluation.tasks.metric_names import is_averaged, metric_label
from backend.domain.evaluation.tasks.reading import TaskGroup
from backend.domain.jobs.states import Status
from backend.domain.names import clean_name, not_found
from backend.domain.statistics.estimates import Estimate, centre, macro_average, micro_average
from backend.errors import Conflict, RoundhouseError
from backend.services.context import Context, Person, require_builder
from backend.services.data.datasets import resolve_version
from backend.services.evaluation.board import read_columns
from backend.services.evaluation.endpoints import EvaluatedEndpointView, read_subjects, store_own
from backend.services.evaluation.evaluations import (
    EvaluationView,
    ScoreView,
    get_evaluations,
    launch_evaluation,
    plan_evaluation,
    resolve_subject,
)
from backend.services.evaluation.task_fit import resolve_benchmark
from backend.services.evaluation.tasks import find_single_task, with_suggested_task
from backend.services.lookups import find_row
from backend.services.people.accounts import person_of


@dataclass(frozen=True)
class SuiteView:
    """A suite and how often it was run."""

    id: str
    config: SuiteConfig
    created_at: datetime
    num_results: int

    @property
    def name(self) -> str:
        """Return the suite's name."""
        return self.config.name


@dataclass(frozen=True)
class MemberResult:
    """A member of a suite on a checkpoint: its evaluation, or why it could not be launched. `is_averaged` is false of
    one that was refused and would have been left out of the averages.
    """

    member: SuiteMember
    evaluation: EvaluationView | None
    error: str
    is_averaged: bool = True


@dataclass(frozen=True)
class SuiteResultView:
    """A suite on a checkpoint or an endpoint, whose name `checkpoint` then is. `seconds` and `tokens` sum what its
    evaluations took, where that is known.

    `macro` counts every benchmark the same, `micro` every item, `centred` (of a suite that says so) the same over what
    exceeds chance. All are None until every member with a share has its score. `left_out` names the finished members
    whose metric does not lie between 0 and 1, such as bits per byte.
    """

    id: str
    suite_id: str
    suite: str
    checkpoint_id: str | None
    checkpoint: str
    run_id: str | None
    step: int | None
    created_at: datetime
    members: tuple[MemberResult, ...]
    macro: Estimate | None
    micro: Estimate | None
    centred: Estimate | None
    left_out: tuple[str, ...]
    seconds: float
    tokens: int
    endpoint: EvaluatedEndpointView | None = None

    @property
    def num_finished(self) -> int:
        """Return how many members have scores."""
        return sum(one.evaluation is not None and one.evaluation.status is Status.FINISHED for one in self.members)

    @property
    def is_active(self) -> bool:
        """Return whether members are still to be launched, queued or running."""
        return any(
            (one.evaluation is None and not one.error) or (one.evaluation and one.evaluation.is_active)
            for one in self.members
        )


def create_suite(ctx: Context, config: SuiteConfig, *, person: Person) -> SuiteView:
    """Store a suite. A member that names no task keeps the suggested one of its benchmark, as a new evaluation has it.

    Raises Conflict if the name is taken, and what a launch would raise for a member that can't be scored.
    """
    require_builder(person)
    members = suggest_members(ctx, config.members)
    config = config.model_copy(update={"name": clean_name(config.name, what="A suite"), "members": members})
    for member in config.members:
        plan_evaluation(ctx, benchmark=member.benchmark, config=member.config)
    try:
        with ctx.db.write() as session:
            row = Suite(name=config.name, config=config, created_by=person.id, created_at=ctx.now())
            session.add(row)
            session.flush()
            return _view(row, 0)
    except IntegrityError as error:
        raise Conflict(
            f"There is already a suite “{config.name}”.", remedy="Choose another name.", field="name"
        ) from error


def suggest_members(ctx: Context, members: Sequence[SuiteMember]) -> tuple[SuiteMember, ...]:
    """Return members as a new suite keeps them: with the suggested tasks of their benchmarks where they name none.
    Raises NotFound.
    """
    return tuple(
        member
        if member.config.task
        else member.model_copy(
            update={"config": with_suggested_task(ctx, resolve_version(ctx, member.benchmark), member.config)}
        )
        for member in members
    )


def tasks_of(ctx: Context, group: TaskGroup) -> list[TaskDefinition]:
    """Return the tasks of a group. Raises NotFound."""
    return [find_single_task(ctx, name) for name in group.tasks]


def suite_of_group(
    ctx: Context,
    group: TaskGroup,
    *,
    tasks: Sequence[TaskDefinition],
    config: EvaluationConfig,
    person: Person,
    benchmark: str = "",
) -> SuiteView:
    """Return the suite of a group's tasks with a config's other settings, creating it at first.

    Its name is the group's, with a number where that is taken by other members.

    Raises InvalidInput naming the task that finds no dataset or does not fit it, NotFound, NotAllowed.
    """
    members = []
    for task in tasks:
        name = benchmark or resolve_benchmark(ctx, "", task=task).dataset
        members.append(SuiteMember(benchmark=name, config=config.model_copy(update={"task": task, "shots": 0})))
    suites = {suite.name: suite for suite in list_suites(ctx)}
    names = [group.name, *(f"{group.name} {number}" for number in range(2, len(suites) + 3))]
    for name in names:
        if name in suites and (suites[name].config.members, suites[name].config.centred) == (
            tuple(members),
            group.centred,
        ):
            return suites[name]
    free = next(name for name in names if name not in suites)
    config_of_group = SuiteConfig(
        name=free, description=group.description, members=tuple(members), centred=group.centred
    )
    return create_suite(ctx, config_of_group, person=person)


def archive_suite(ctx: Context, suite: str, *, person: Person) -> None:
    """Take a suite out of the lists and free its name. Its results stay."""
    require_builder(person)
    with ctx.db.write() as session:
        row = _find(session, suite)
        row.archived_at, row.name = ctx.now(), f"{row.name[:90]} (archived {row.id})"


def list_suites(ctx: Context) -> list[SuiteView]:
    """Return the suites by name."""
    with ctx.db.read() as session:
        rows = session.scalars(select(Suite).where(Suite.archived_at.is_(None)).order_by(Suite.name)).all()
        used = list(session.scalars(select(SuiteResult.suite_id)))
        return [_view(row, used.count(row.id)) for row in rows]


def get_suite(ctx: Context, name_or_id: str) -> SuiteView:
    """Return a suite by name or id. Raises NotFound with similar names."""
    with ctx.db.read() as session:
        row = _find(session, name_or_id)
        return _view(row, len(session.scalars(select(SuiteResult.id).where(SuiteResult.suite_id == row.id)).all()))


def run_suite(
    ctx: Context, suite: str, *, person: Person, checkpoint: str | None = None, endpoint: str | None = None
) -> SuiteResultView:
    """Launch a suite's evaluations on a checkpoint or an endpoint. What was measured already with the same settings is
    taken as it is.

    Raises NotFound, Conflict if the subject is not ready, InvalidInput unless one is named, NotAllowed. A member that
    can't be launched is an error of the result.
    """
    require_builder(person)
    subject = resolve_subject(ctx, checkpoint, endpoint)
    with ctx.db.write() as session:
        chosen = _find(session, suite)
        is_endpoint = isinstance(subject, EvaluatedEndpointView)
        row = SuiteResult(
            suite_id=chosen.id,
            checkpoint_id=None if is_endpoint else subject.id,
            endpoint_id=store_own(session, ctx, subject, person=person)
            if isinstance(subject, EvaluatedEndpointView)
            else None,
            config=chosen.config,
            created_by=person.id,
            created_at=ctx.now(),
        )
        session.add(row)
        session.flush()
        result_id = row.id
    launch_members(ctx, result_id)
    return get_result(ctx, result_id)


def launch_members(ctx: Context, result_id: str) -> None:
    """Launch the members of a result that have no evaluation yet. Safe to repeat: each has its own key."""
    with ctx.db.read() as session:
        row = session.get_one(SuiteResult, result_id)
        config, person = row.config, person_of(session, row.created_by)
        subject = (row.checkpoint_id, row.endpoint_id)
    members = [
        _launch_member(ctx, result_id, index, member, subject, person) for index, member in enumerate(config.members)
    ]
    _store_members(ctx, result_id, members)


def _launch_member(
    ctx: Context,
    result_id: str,
    index: int,
    member: SuiteMember,
    subject: tuple[str | None, str | None],
    person: Person,
) -> MemberOutcome:
    try:
        evaluation = launch_evaluation(
            ctx,
            checkpoint=subject[0],
            endpoint=subject[1],
            benchmark=member.benchmark,
            config=member.config,
            person=person,
            idempotency_key=f"suite:{result_id}:{index}",
        )
    except RoundhouseError as error:
        return MemberOutcome(error=f"{error.message} {error.remedy or ''}".strip())
    return MemberOutcome(evaluation=evaluation.id)


def _store_members(ctx: Context, result_id: str, members: list[MemberOutcome]) -> None:
    with ctx.db.write() as session:
        row = session.get_one(SuiteResult, result_id)
        row.members, row.launched_at = members, ctx.now()


def get_result(ctx: Context, result_id: str) -> SuiteResultView:
    """Return a suite result. Raises NotFound."""
    with ctx.db.read() as session:
        remedy = "See the suite's page for its results."
        row = find_row(session, SuiteResult, result_id, what="suite result", remedy=remedy)
    return _results(ctx, [row])[0]


def list_suite_results(
    ctx: Context, *, suite_id: str | None = None, run_id: str | None = None
) -> list[SuiteResultView]:
    """Return suite results, newest first: of a suite, or of a run's checkpoints."""
    query = select(SuiteResult).order_by(SuiteResult.created_at.desc(), SuiteResult.id).limit(100)
    if suite_id:
        query = query.where(SuiteResult.suite_id == suite_id)
    if run_id:
        query = query.join(Checkpoint, Checkpoint.id == SuiteResult.checkpoint_id).where(Checkpoint.run_id == run_id)
    with ctx.db.read() as session:
        rows = list(session.scalars(query))
    return _results(ctx, rows)


def _results(ctx: Context, rows: Sequence[SuiteResult]) -> list[SuiteResultView]:
    ids = [one.evaluation for row in rows for one in row.members if one.evaluation]
    evaluations = {evaluation.id: evaluation for evaluation in get_evaluations(ctx, ids)}
    with ctx.db.read() as session:
        checkpoints = {
            c.id: c
            for c in session.scalars(select(Checkpoint).where(Checkpoint.id.in_({row.checkpoint_id for row in rows})))
        }
        endpoints = read_subjects(session, (row.endpoint_id for row in rows if row.endpoint_id))
        jobs = {
            job.id: job
            for job in session.scalars(
                select(Job).where(Job.id.in_({e.job_id for e in evaluations.values() if e.job_id}))
            )
        }
    return [
        _result(
            ctx, row, checkpoints.get(row.checkpoint_id or ""), endpoints.get(row.endpoint_id or ""), evaluations, jobs
        )
        for row in rows
    ]


def _result(
    ctx: Context,
    row: SuiteResult,
    checkpoint: Checkpoint | None,
    endpoint: EvaluatedEndpointView | None,
    evaluations: dict[str, EvaluationView],
    jobs: dict[str, Job],
) -> SuiteResultView:
    config = row.config
    stored = row.members or [MemberOutcome() for _ in config.members]
    members = tuple(
        MemberResult(
            member,
            evaluations.get(one.evaluation or ""),
            one.error or "",
            is_averaged=not one.error or _would_be_averaged(ctx, member),
        )
        for member, one in zip(config.members, stored, strict=True)
    )
    done = [
        one.evaluation for one in members if one.evaluation is not None and one.evaluation.status is Status.FINISHED
    ]
    ran = [jobs[e.job_id] for e in done if e.job_id in jobs]
    macro, micro, left_out = average(members)
    return view_of(
        SuiteResultView,
        row,
        suite=config.name,
        checkpoint=checkpoint.name if checkpoint else endpoint.name if endpoint else "",
        endpoint=endpoint,
        run_id=checkpoint.run_id if checkpoint else None,
        step=checkpoint.step if checkpoint else None,
        members=members,
        macro=macro,
        micro=micro,
        centred=average_above_chance(members) if config.centred and macro is not None else None,
        left_out=left_out,
        seconds=sum(
            (job.finished_at - job.started_at).total_seconds() for job in ran if job.started_at and job.finished_at
        ),
        tokens=sum(e.facts.tokens or 0 for e in done),
    )


def _would_be_averaged(ctx: Context, member: SuiteMember) -> bool:
    try:
        kind = plan_evaluation(ctx, benchmark=member.benchmark, config=member.config).kind
    except RoundhouseError:  # its dataset is gone
        return True
    return is_averaged(member.config.main_metric(kind))


def average(members: Sequence[MemberResult]) -> tuple[Estimate | None, Estimate | None, tuple[str, ...]]:
    """Return macro and micro average of the members' main scores, and members whose scores have none with others."""
    scores = [
        (one.member.benchmark, one.evaluation.main_score)
        for one in members
        if one.evaluation and one.evaluation.main_score
    ]
    averaged = [score for _, score in scores if is_averaged(score.metric)]
    left_out = tuple(
        f"{name} ({metric_label(score.metric)})" for name, score in scores if not is_averaged(score.metric)
    )
    if not averaged or len(scores) < sum(one.is_averaged for one in members):
        return None, None, left_out
    estimates = [Estimate(s.value, s.stderr, s.low, s.high, s.n, s.method) for s in averaged]
    return macro_average(estimates), micro_average(estimates), left_out


def average_above_chance(members: Sequence[MemberResult]) -> Estimate:
    """Return the macro average of what the members' shares exceed chance by; chance is 0 where there are no choices."""
    evaluations = [one.evaluation for one in members if one.evaluation is not None]
    scored = [
        (e.facts.chance or 0.0, score)
        for e in evaluations
        if (score := e.main_score) is not None and is_averaged(score.metric)
    ]
    return macro_average(
        [centre(Estimate(s.value, s.stderr, s.low, s.high, s.n, s.method), chance=chance) for chance, s in scored]
    )


def _find(session: Session, name_or_id: str) -> Suite:
    row = session.get(Suite, name_or_id) or session.scalar(
        select(Suite).where(Suite.name == name_or_id, Suite.archived_at.is_(None))
    )
    if row is None:
        names = session.scalars(select(Suite.name).where(Suite.archived_at.is_(None)))
        raise not_found("suite", name_or_id, names, remedy="See `roundhouse eval suite list`, or create one.")
    return row


def _view(row: Suite, num_results: int) -> SuiteView:
    return SuiteView(row.id, row.config.model_copy(update={"name": row.name}), row.created_at, num_results)


@dataclass(frozen=True)
class ScoreCurve:
    """A score by training step, of a benchmark or a suite."""

    label: str
    metric: str
    points: tuple[tuple[int, ScoreView], ...]


@dataclass(frozen=True)
class RunScores:
    """Curves of a run's evaluations, and the validation loss at its checkpoints.

    `failed_steps`: steps at which a benchmark of a suite could not be scored, as where the run had removed the
    checkpoint.
    """

    losses: tuple[tuple[int, float], ...]
    curves: tuple[ScoreCurve, ...]
    num_active: int
    failed_steps: tuple[int, ...] = ()


def read_run_scores(ctx: Context, run_id: str) -> RunScores:
    """Return the newest comparable scores of a run's checkpoints by benchmark, suites' macro averages first."""
    with ctx.db.read() as session:
        checkpoints = {
            c.id: c
            for c in session.scalars(
                select(Checkpoint).where(Checkpoint.run_id == run_id, Checkpoint.step.is_not(None))
            )
        }
        query = (
            select(Evaluation.id)
            .where(Evaluation.checkpoint_id.in_(checkpoints))
            .order_by(Evaluation.created_at.desc())
        )
        ids = list(session.scalars(query))
    evaluations = get_evaluations(ctx, ids)
    results = list_suite_results(ctx, run_id=run_id)
    curves = _suite_curves(results)
    for column, members in read_columns(evaluations):
        newest: dict[int, ScoreView] = {}
        for evaluation in members:
            step, score = checkpoints[evaluation.subject_id].step, evaluation.score(column.metric)
            if step is not None and score is not None:
                newest.setdefault(step, score)
        if newest:
            curves.append(ScoreCurve(column.label, column.metric, tuple(sorted(newest.items()))))
    losses = [
        (c.step, float(loss))
        for c in checkpoints.values()
        if c.step is not None and (loss := c.metrics.get("val_loss")) is not None
    ]
    failed = {
        result.step
        for result in results
        if result.step is not None and any(_failed(member) for member in result.members)
    }
    num_active = sum(evaluation.is_active for evaluation in evaluations)
    return RunScores(tuple(sorted(losses)), tuple(curves), num_active, tuple(sorted(failed)))


def _failed(member: MemberResult) -> bool:
    return bool(member.error) or (member.evaluation is not None and member.evaluation.status is Status.FAILED)


def _suite_curves(results: Sequence[SuiteResultView]) -> list[ScoreCurve]:
    points: dict[str, dict[int, ScoreView]] = {}
    for result in results:
        if result.macro is not None and result.step is not None:
            macro = result.macro
            score = ScoreView("acc", macro.value, macro.stderr, macro.low, macro.high, macro.n, macro.method)
            points.setdefault(result.suite, {}).setdefault(result.step, score)
    return [
        ScoreCurve(f"{suite}, macro average", "acc", tuple(sorted(steps.items()))) for suite, steps in points.items()
    ]
