"""Search of a sweep by Optuna: the next values to try, and the runs to prune.

Optuna's study is rebuilt from the runs' rows at each call and never stored, so a lost worker loses no trial.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from backend.domain.training.config_fields import kind_of
from backend.domain.training.sweep import ParameterRange, Point, SweepConfig, Values, as_field, may_be, untried

if TYPE_CHECKING:
    import optuna

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
