"""Sweeps: launch a group of runs, advance it by the results so far, stop and list. Stored are the sweep's config, its
runs, and marks in `run_groups.result`: `stopped`, `done`, `problem`, `refused` (point by number, where the run was
refused) and `pruned` (run id to step). Everything else follows from the runs, so advancing is idempotent: a run's key
consists of the sweep and its number.

Optuna proposes the next values and the runs to prune. Its study is rebuilt from the runs' rows at each call and never
stored, so a lost worker loses no trial.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.engine import retry_races
from backend.db.tables import Job, MetricName, MetricPoint, Run, RunGroup
from backend.domain.attributes import view_of
from backend.domain.jobs.states import TERMINAL, Status
from backend.domain.names import clean_name
from backend.domain.training.config import RunConfig
from backend.domain.training.config_fields import flatten, kind_of
from backend.domain.training.sweep import (
    ParameterRange,
    Point,
    SweepConfig,
    Values,
    as_field,
    build_run,
    may_be,
    parse_sweep,
    point_at,
    untried,
)
from backend.domain.training.sweep_marks import RefusedPoint, SweepMarks
from backend.domain.validation import read_stored
from backend.domain.yaml_text import parse_yaml
from backend.errors import Conflict, InvalidInput, RoundhouseError
from backend.services.checkpoints.checkpoints import resolve_checkpoint
from backend.services.context import LOCAL, Context, Person, require_builder
from backend.services.data.datasets import resolve_version
from backend.services.jobs.placements import check_placement
from backend.services.lookups import find_named
from backend.services.people.accounts import person_of
from backend.services.training.open_sweeps import KIND, list_open_sweeps
from backend.services.training.parts import resolve_parts
from backend.services.training.runs import launch_run, stop_run
from backend.services.training.views import RunView, get_runs

if TYPE_CHECKING:
    import optuna


TAG = "sweep"
FAILURES_TO_HALT = 3
OUTCOMES: Mapping[Status, Outcome] = {
    Status.FINISHED: "finished",
    Status.FAILED: "failed",
    Status.CANCELLED: "pruned",
}


@dataclass(frozen=True)
class SweepView:
    """A sweep in a list. `num_done` counts runs that finished or were pruned; `problem` is why no more are launched."""

    id: str
    name: str
    config: SweepConfig
    num_launched: int
    num_active: int
    num_done: int
    num_failed: int
    best: float | None
    stopped: bool
    done: bool
    problem: str
    created_at: datetime
    archived_at: datetime | None

    @property
    def num_planned(self) -> int:
        """Number of runs."""
        return self.config.num_runs

    @property
    def is_active(self) -> bool:
        """Return whether runs are active or still to be launched."""
        return self.num_active > 0 or not (self.stopped or self.done)


@dataclass(frozen=True)
class SweepRun:
    """A run of a sweep: its values, and its best metric. `pruned_at` is the step at which it was pruned."""

    number: int
    run: RunView
    point: dict[str, object]
    value: float | None
    pruned_at: int | None


@dataclass(frozen=True)
class SweepDetail:
    """A sweep with its runs by number, and the best of them."""

    sweep: SweepView
    runs: tuple[SweepRun, ...]
    best: SweepRun | None


@retry_races
def launch_sweep(ctx: Context, config: SweepConfig, *, person: Person, placement: str | None = None) -> SweepView:
    """Launch a sweep: its first runs are queued now, the others by the workers as these end, all with one `placement`
    if it is given. Launching the same sweep twice launches it once.

    Raises Conflict if another sweep or study has the name, and what `launch_run` raises for runs that are refused.
    """
    require_builder(person)
    name = clean_name(config.name, what="A sweep", limit=90)
    # one version and one base for all runs, even if others are made meanwhile
    parts = {"dataset": resolve_version(ctx, config.run.dataset, ready=False).label}
    if config.run.base:
        parts["base"] = resolve_checkpoint(ctx, config.run.base).name
    fixed = {part: value for part, value in parts.items() if part not in config.vary}
    config = config.model_copy(update={"name": name, "run": config.run.model_copy(update=fixed)})
    for path_config in _first_runs(config):
        resolve_parts(ctx, path_config)
    stored: dict[str, object] = {"sweep": config.model_dump(mode="json")}
    if placement:
        stored["placement"] = check_placement(ctx, placement, config.run)
    with ctx.db.write() as session:
        group = session.scalar(select(RunGroup).where(RunGroup.name == name))
        if group is None:
            group = RunGroup(name=name, kind=KIND, config=stored, created_by=person.id, created_at=ctx.now())
            session.add(group)
            session.flush()
        elif group.kind != KIND or group.config != stored:
            raise Conflict(
                f"There is already another sweep or study “{name}”.", remedy="Choose another name.", field="name"
            )
        group_id = group.id
    advance_sweep(ctx, group_id)
    return get_sweep(ctx, group_id)


def advance_sweeps(ctx: Context) -> None:
    """Advance every unfinished sweep. Each training worker calls this every few seconds."""
    for group_id in list_open_sweeps(ctx):
        advance_sweep(ctx, group_id)


def advance_sweep(ctx: Context, group_id: str) -> None:
    """Prune bad runs, launch runs up to the parallel limit, and mark the sweep as done when nothing is left."""
    with ctx.db.read() as session:
        group = session.get_one(RunGroup, group_id)
        config, marks, placement = parse_stored(group), group.result, group.config.get("placement")
        members = _members(session, group)
        trials = _trials(session, config, members, marks)
        person = person_of(session, group.created_by)
    active = [members[trial.number] for trial in trials if trial.outcome is None and trial.number in members]
    halted = _why_halted(trials)
    if marks.stopped or halted:
        if marks.stopped:
            _stop(ctx, [run for run, job in active if job is not None and job.stop_request is None])
        _mark(ctx, group_id, problem=halted, done=not active)
        return
    _prune(ctx, group_id, config, trials, members)
    going = sum(job is not None and job.status != Status.PAUSED for _, job in active)
    while going < config.parallel and len(trials) < config.num_runs:
        number = len(trials)
        point = propose(config, trials) if config.method == "bayesian" else point_at(config, number)
        try:
            run = build_run(config, point, number)
            launch_run(
                ctx,
                run,
                person=person,
                idempotency_key=f"sweep:{group_id}:{number}",
                tags=(TAG,),
                group_id=group_id,
                placement=placement,
            )
            going += 1
            trials.append(Trial(number, point, ctx.now().timestamp()))
        except RoundhouseError as error:
            if not isinstance(error, InvalidInput) or error.field == "placement":
                # a full disk, a deleted base, a partition that is down or gone: retried at the next call
                _mark(ctx, group_id, problem=str(error))
                return
            # these values don't fit together; the next ones may
            refused = {**marks.refused, number: RefusedPoint(point=point, cause=str(error))}
            marks = marks.model_copy(update={"refused": refused})
            _mark(ctx, group_id, refused=refused)
            trials.append(Trial(number, point, ctx.now().timestamp(), outcome="failed"))
    _mark(ctx, group_id, problem="", done=going == 0 and not active and len(trials) >= config.num_runs)


def list_sweeps(ctx: Context) -> list[SweepView]:
    """Return sweeps that are not archived, newest first."""
    with ctx.db.read() as session:
        query = select(RunGroup).where(RunGroup.kind == KIND, RunGroup.archived_at.is_(None))
        newest_first = query.order_by(RunGroup.created_at.desc(), RunGroup.id)
        return [_view(session, group) for group in session.scalars(newest_first)]


def get_sweep(ctx: Context, name_or_id: str) -> SweepView:
    """Return a sweep by name or id. Raises NotFound with similar names."""
    with ctx.db.read() as session:
        return _view(session, _find(session, name_or_id))


def sweep_detail(ctx: Context, name_or_id: str) -> SweepDetail:
    """Return a sweep with its runs. Raises NotFound."""
    with ctx.db.read() as session:
        group = _find(session, name_or_id)
        view, config, marks = _view(session, group), parse_stored(group), group.result
        members = _members(session, group)
        trials = {trial.number: trial for trial in _trials(session, config, members, marks)}
    views = {run.id: run for run in get_runs(ctx, [run.id for run, _ in members.values()])}
    runs = tuple(
        SweepRun(
            number, views[run.id], trials[number].point, trials[number].best(config.goal), marks.pruned.get(run.id)
        )
        for number, (run, _) in sorted(members.items())
        if run.id in views
    )
    return SweepDetail(view, runs, _best(config, runs))


def sweep_of_run(ctx: Context, run_id: str) -> tuple[str, str] | None:
    """Return (id, name) of the sweep that a run belongs to."""
    query = (
        select(RunGroup.id, RunGroup.name)
        .join(Run, Run.group_id == RunGroup.id)
        .where(Run.id == run_id, RunGroup.kind == KIND)
    )
    with ctx.db.read() as session:
        row = session.execute(query).first()
        return (row[0], row[1]) if row is not None else None


def stop_sweep(ctx: Context, name_or_id: str, *, person: Person) -> int:
    """Launch no more runs of a sweep and ask its active runs to stop and save; return their number."""
    require_builder(person)
    with ctx.db.read() as session:
        group = _find(session, name_or_id)
        group_id, members = group.id, _members(session, group)
    _mark(ctx, group_id, stopped=True)
    return _stop(ctx, [run for run, job in members.values() if job is not None and job.status not in TERMINAL])


def continue_sweep(ctx: Context, name_or_id: str, *, person: Person) -> SweepView:
    """Continue a stopped sweep with its remaining runs."""
    require_builder(person)
    group_id = get_sweep(ctx, name_or_id).id
    _mark(ctx, group_id, stopped=False, done=False, problem="")
    advance_sweep(ctx, group_id)
    return get_sweep(ctx, group_id)


def archive_sweep(ctx: Context, name_or_id: str, *, person: Person) -> None:
    """Archive a sweep; its runs stay. Raises Conflict while it is active."""
    require_builder(person)
    sweep = get_sweep(ctx, name_or_id)
    if sweep.is_active:
        raise Conflict(f"“{sweep.name}” is still active.", remedy="Stop it first.")
    with ctx.db.write() as session:
        _find(session, sweep.id).archived_at = ctx.now()


def read_sweep(text: str) -> SweepConfig:
    """Read a sweep from YAML. Raises InvalidInput with the line or the field at fault."""
    return parse_sweep(parse_yaml(text, what="The sweep"))


def parse_stored(group: RunGroup) -> SweepConfig:
    """Return a row's config; its runs were checked at the launch."""
    return read_stored(SweepConfig, group.config["sweep"])


def _first_runs(config: SweepConfig) -> list[RunConfig]:
    """Return one config per referenced row, so that an unknown name fails before the launch."""
    names = {
        path: choice for path, choice in config.vary.items() if path in ("dataset", "base", "architecture", "tokenizer")
    }
    if config.method == "bayesian":
        first = {
            path: choice.values[0] if isinstance(choice, Values) else as_field(path, choice, choice.low)
            for path, choice in config.vary.items()
        }
    else:
        first = point_at(config, 0)
    points = [
        first,
        *({**first, path: value} for path, choice in names.items() for value in getattr(choice, "values", ())),
    ]
    return [build_run(config, point, 0) for point in points]


def _members(session: Session, group: RunGroup) -> dict[int, tuple[Run, Job | None]]:
    """Return a sweep's runs by number, each with its newest job. The number is in the key of the run's first job."""
    prefix = f"sweep:{group.id}:"
    keys = session.execute(
        select(Job.idempotency_key, Job.payload).where(Job.idempotency_key.startswith(prefix, autoescape=True))
    )
    numbers = {str(payload.get("run_id")): int(str(key).removeprefix(prefix)) for key, payload in keys}
    rows = session.execute(select(Run, Job).outerjoin(Job, Job.id == Run.job_id).where(Run.group_id == group.id))
    return {numbers[run.id]: (run, job) for run, job in rows if run.id in numbers}


def _trials(
    session: Session, config: SweepConfig, members: dict[int, tuple[Run, Job | None]], marks: SweepMarks
) -> list[Trial]:
    """Return the trials so far, numbered densely; numbers without a run were refused, or their run was deleted."""
    ids = {run.id: number for number, (run, _) in members.items()}
    reports: dict[int, list[tuple[float, int, float]]] = {}
    query = (
        select(MetricPoint.run_id, MetricPoint.time, MetricPoint.step, MetricPoint.value)
        .join(MetricName, MetricName.id == MetricPoint.name_id)
        .where(MetricPoint.run_id.in_(ids), MetricName.name == config.metric)
    )
    for run_id, time, step, value in session.execute(query):
        reports.setdefault(ids[run_id], []).append((time, step, value))
    refused = {number: mark.point for number, mark in marks.refused.items()}
    trials = []
    for number in range(max([*members, *refused], default=-1) + 1):
        if number not in members:
            trials.append(
                Trial(number, refused.get(number, {}), 0.0, outcome="failed" if number in refused else "pruned")
            )
            continue
        run, job = members[number]
        flat = flatten(run.launched_config)
        status = Status(job.status) if job is not None else Status.CANCELLED
        trials.append(
            Trial(
                number,
                {path: flat.get(path) for path in config.vary},
                run.created_at.timestamp(),
                tuple(reports.get(number, ())),
                OUTCOMES.get(status),
                job.finished_at.timestamp() if job is not None and job.finished_at else None,
            )
        )
    return trials


def _prune(
    ctx: Context,
    group_id: str,
    config: SweepConfig,
    trials: Sequence[Trial],
    members: dict[int, tuple[Run, Job | None]],
) -> None:
    for number in choose_pruned(config, trials):
        run, job = members[number]
        if job is None or job.status != Status.RUNNING:
            continue
        _stop(ctx, [run])
        with ctx.db.write() as session:
            group = session.get_one(RunGroup, group_id)
            pruned = {**group.result.pruned, run.id: run.last_step}
            group.result = group.result.model_copy(update={"pruned": pruned})


def _stop(ctx: Context, runs: Sequence[Run]) -> int:
    """Ask runs to stop and save; return how many were not over."""
    stopped = 0
    for run in runs:
        try:
            stop_run(ctx, run.id, how="stop_and_save", person=LOCAL)
            stopped += 1
        except Conflict:  # it ended meanwhile
            continue
    return stopped


def _why_halted(trials: Sequence[Trial]) -> str:
    """Return the reason why no more runs are launched: the first ones all failed."""
    first = [trial.outcome for trial in trials[:FAILURES_TO_HALT]]
    if len(first) == FAILURES_TO_HALT and all(outcome == "failed" for outcome in first):
        return (
            f"The first {FAILURES_TO_HALT} runs failed, so no more are launched. Fix the cause, then launch a new"
            " sweep."
        )
    return ""


def _mark(ctx: Context, group_id: str, **marks: Any) -> None:
    """Store changed marks."""
    with ctx.db.read() as session:
        now = session.get_one(RunGroup, group_id).result
    if any(getattr(now, name) != value for name, value in marks.items()):
        with ctx.db.write() as session:
            group = session.get_one(RunGroup, group_id)
            group.result = group.result.model_copy(update=marks)


def _view(session: Session, group: RunGroup) -> SweepView:
    config, marks = parse_stored(group), group.result
    members = _members(session, group)
    trials = _trials(session, config, members, marks)
    values = [value for trial in trials if trial.outcome != "failed" and (value := trial.best(config.goal)) is not None]
    return view_of(
        SweepView,
        group,
        config=config,
        num_launched=sum(trial.number not in marks.refused for trial in trials),
        num_active=sum(trial.outcome is None for trial in trials),
        num_done=sum(trial.outcome in ("finished", "pruned") for trial in trials),
        num_failed=sum(trial.outcome == "failed" for trial in trials),
        best=(max(values) if config.goal == "highest" else min(values)) if values else None,
        stopped=marks.stopped,
        done=marks.done,
        problem=marks.problem,
    )


def _best(config: SweepConfig, runs: Sequence[SweepRun]) -> SweepRun | None:
    measured = [run for run in runs if run.value is not None and run.run.status is not Status.FAILED]
    key = (lambda run: -run.value) if config.goal == "highest" else (lambda run: run.value)
    return min(measured, key=key, default=None)


def _find(session: Session, name_or_id: str) -> RunGroup:
    return find_named(session, RunGroup, name_or_id, what="sweep", remedy="Launch one on the Launch page.", kind=KIND)


REDRAWS = 20
MIN_TO_LEARN_FROM, MIN_TO_PRUNE_BY = 4, 4
_answers: dict[str, tuple[object, set[int]]] = {}
Outcome = Literal["finished", "pruned", "failed"]


@dataclass(frozen=True)
class Trial:
    """A run of a sweep, or a refused point. Numbers are dense, from 0, in the order of the launches.

    `reports` are (time, step, value) of the sweep's metric. `outcome` is None while the run is queued, running or
    paused.
    """

    number: int
    point: Point
    started: float
    reports: Sequence[tuple[float, int, float]] = ()
    outcome: Outcome | None = None
    ended: float | None = None

    def best(self, goal: str) -> float | None:
        """Return the best reported value."""
        values = [value for _, _, value in self.reports]
        return (max(values) if goal == "highest" else min(values)) if values else None


def propose(config: SweepConfig, trials: Sequence[Trial]) -> Point:
    """Return the values of a bayesian sweep's next run (TPE; Bergstra et al. 2011), a function of seed and trials.
    Active runs count as bad (constant liar), so that parallel runs don't cluster. If all fields have lists, a point
    that was tried is redrawn.
    """
    import optuna

    number = len(trials)
    study, distributions = _study(config), _distributions(config)
    study.add_trials([_frozen(config, trial, distributions) for trial in trials])
    tried = [trial.point for trial in trials]
    point: Point = {}
    for draw in range(REDRAWS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constant_liar and multivariate are marked experimental
            study.sampler = optuna.samplers.TPESampler(
                seed=(config.seed * 7919 + number * REDRAWS + draw) % 2**31,
                multivariate=True,
                constant_liar=True,
                n_startup_trials=min(10, max(MIN_TO_LEARN_FROM, config.runs // 4)),
            )
            drawn = study.ask(distributions)
        point = {
            path: as_field(path, choice, drawn.params[path])
            if isinstance(choice, ParameterRange)
            else drawn.params[path]
            for path, choice in config.vary.items()
        }
        if point not in tried:
            break
        study.tell(drawn, state=optuna.trial.TrialState.FAIL)
    else:
        point = untried(config, tried) or point
    return point


def choose_pruned(config: SweepConfig, trials: Sequence[Trial]) -> list[int]:
    """Return the numbers of the running trials that the pruner stops, given the reports so far."""
    running = {trial.number for trial in trials if trial.outcome is None and trial.reports}
    if config.pruner == "none" or not running:
        return []
    return sorted(running & (_below_median(config, trials) if config.pruner == "median" else _halved(config, trials)))


def _below_median(config: SweepConfig, trials: Sequence[Trial]) -> set[int]:
    study, distributions = _study(config), _distributions(config)
    study.add_trials([_frozen(config, trial, distributions) for trial in trials])
    return {
        trial.number for trial in study.trials if not trial.state.is_finished() and study.pruner.prune(study, trial)
    }


def _halved(config: SweepConfig, trials: Sequence[Trial]) -> set[int]:
    """Replay all reports and ends in order of time, because hyperband records a trial's rung when it is asked to prune.
    Takes seconds for hundreds of runs, so the result is cached until there is a new event.
    """
    events = config, tuple((trial.number, tuple(trial.reports), trial.outcome) for trial in trials)
    cached = _answers.get(config.name)
    if cached is not None and cached[0] == events:
        return cached[1]
    study, distributions = _study(config), _distributions(config)
    optuna_trials: list[optuna.Trial] = []
    pruned: set[int] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a value rounded across the end of its range
        for trial in trials:  # all first, so that numbers agree
            study.enqueue_trial(trial.point)
            optuna_trials.append(study.ask(distributions))
    for number, step, value in _in_order(trials):
        trial_now = optuna_trials[number]
        if step is not None:
            trial_now.report(value, step)
            if trial_now.should_prune():
                pruned.add(number)
            continue
        state, best = _state_of(config, trials[number])
        study.tell(trial_now, best, state=state)
    _answers[config.name] = events, pruned
    return pruned


def _study(config: SweepConfig) -> optuna.Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        study_name=config.name,
        direction="maximize" if config.goal == "highest" else "minimize",
        sampler=optuna.samplers.RandomSampler(seed=config.seed),
        pruner=_pruner(config),
    )


def _state_of(config: SweepConfig, trial: Trial) -> tuple[optuna.trial.TrialState, float | None]:
    """Return a trial's state, and its value where it has one: that of a pruned one comes from its reports."""
    from optuna.trial import TrialState

    best = trial.best(config.goal)
    if trial.outcome is None:
        return TrialState.RUNNING, None
    if trial.outcome == "failed" or best is None:
        return TrialState.FAIL, None
    return (TrialState.COMPLETE, best) if trial.outcome == "finished" else (TrialState.PRUNED, None)


def _frozen(
    config: SweepConfig, trial: Trial, distributions: dict[str, optuna.distributions.BaseDistribution]
) -> optuna.trial.FrozenTrial:
    """Return a trial as Optuna stores one; a failed one for a point that is incomplete or outside the search space."""
    import optuna

    state, best = _state_of(config, trial)
    if not all(path in trial.point and may_be(choice, trial.point[path]) for path, choice in config.vary.items()):
        return optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL)
    return optuna.trial.create_trial(
        state=state,
        value=best,
        params={path: trial.point[path] for path in config.vary},
        distributions=distributions,
        intermediate_values={step: value for _, step, value in trial.reports},
    )


def _in_order(trials: Sequence[Trial]) -> list[tuple[int, int | None, float]]:
    """Return (number, step, value) of every report and (number, None, 0) of every end, by time. A report never comes
    after its end.
    """
    events: list[tuple[float, int, int | None, float]] = []
    for trial in trials:
        last = trial.started
        for time, step, value in sorted(trial.reports, key=lambda report: report[1]):
            last = max(last, time)
            events.append((last, trial.number, step, value))
        if trial.outcome is not None:
            events.append((max(last, trial.ended or last), trial.number, None, 0.0))
    return [(number, step, value) for _, number, step, value in sorted(events, key=lambda event: event[0])]


def _pruner(config: SweepConfig) -> optuna.pruners.BasePruner:
    import optuna

    if config.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=MIN_TO_PRUNE_BY, n_warmup_steps=config.run.num_warmup_steps)
    if config.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(
            min_resource=min(config.run.eval_every, config.run.max_steps),
            max_resource=config.run.max_steps,
            reduction_factor=3,
        )
    return optuna.pruners.NopPruner()


def _distributions(config: SweepConfig) -> dict[str, optuna.distributions.BaseDistribution]:
    return {path: _distribution(path, choice) for path, choice in config.vary.items()}


def _distribution(path: str, choice: Values | ParameterRange) -> optuna.distributions.BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(choice, Values):
        return CategoricalDistribution(list(dict.fromkeys(choice.values)))
    if kind_of(path) is int:
        return IntDistribution(math.ceil(choice.low), math.floor(choice.high), log=choice.log)
    return FloatDistribution(choice.low, choice.high, log=choice.log)
