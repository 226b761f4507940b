"""What a sweep tries next, and which of its runs to prune: Optuna, told again from the runs' own rows each time it is asked.

Nothing of Optuna's is kept. What runs were given and what they measured is in the database, so a worker that is lost loses no trial.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from backend.domain.config_paths import kind_of
from backend.domain.run_sweep import Point, Span, SweepConfig, Values, untried

if TYPE_CHECKING:
    import optuna

REDRAWS = 20
FEWEST_TO_LEARN_FROM, FEWEST_TO_PRUNE_BY = 4, 4


@dataclass(frozen=True)
class Trial:
    """A run of a sweep, or a point that no run could be made of. Numbers are dense, from 0, in the order of the launches.

    `reports` are (time, step, value) of the sweep's metric. `outcome` is None while the run waits, runs or is paused.
    """

    number: int
    point: Point
    started: float
    reports: Sequence[tuple[float, int, float]] = ()
    outcome: Literal["finished", "pruned", "failed"] | None = None
    ended: float | None = None

    def best(self, goal: str) -> float | None:
        """The best value that was reported."""
        values = [value for _, _, value in self.reports]
        return (max(values) if goal == "highest" else min(values)) if values else None


def propose(config: SweepConfig, trials: Sequence[Trial]) -> Point:
    """Return the values of a bayesian sweep's next run (TPE; Bergstra et al. 2011), a function of seed and trials.

    Runs that still go count as bad, so that several at once don't crowd one place (the constant liar). Where all fields have lists, a
    point that was tried is drawn again.
    """
    import optuna

    number = len(trials)
    study, _ = _replay(config, trials)
    distributions = {path: _distribution(path, choice) for path, choice in config.vary.items()}
    tried = [trial.point for trial in trials]
    point: Point = {}
    for draw in range(REDRAWS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constant_liar and multivariate are marked experimental
            study.sampler = optuna.samplers.TPESampler(
                seed=(config.seed * 7919 + number * REDRAWS + draw) % 2**31, multivariate=True, constant_liar=True,
                n_startup_trials=min(10, max(FEWEST_TO_LEARN_FROM, config.runs // 4)),
            )  # fmt: skip
            asked = study.ask(distributions)
        point = {path: _rounded(path, value) for path, value in asked.params.items()}
        if point not in tried:
            break
        study.tell(asked, state=optuna.trial.TrialState.FAIL)
    else:
        point = untried(config, tried) or point
    return {path: point[path] for path in config.vary}


def choose_pruned(config: SweepConfig, trials: Sequence[Trial]) -> list[int]:
    """Return the numbers of the running trials that the pruner would stop by what is reported so far."""
    if config.pruner == "none":
        return []
    _, condemned = _replay(config, trials)
    return sorted(condemned & {trial.number for trial in trials if trial.outcome is None})


def _replay(config: SweepConfig, trials: Sequence[Trial]) -> tuple[optuna.Study, set[int]]:
    """Tell a new study in memory all that happened, in the order of time; return it and the trials that the pruner would have stopped."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    states = optuna.trial.TrialState
    study = optuna.create_study(
        study_name=config.name, direction="maximize" if config.goal == "highest" else "minimize",
        sampler=optuna.samplers.RandomSampler(seed=config.seed), pruner=_pruner(config),
    )  # fmt: skip
    distributions = {path: _distribution(path, choice) for path, choice in config.vary.items()}
    asked: list[optuna.Trial] = []
    condemned: set[int] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a value rounded across the end of its range
        for trial in trials:  # all at first, so that numbers agree
            study.enqueue_trial(trial.point)
            asked.append(study.ask(distributions))
        for number, step, value in _in_order(trials):
            if step is None:
                trial, told = trials[number], asked[number]
                best = trial.best(config.goal)
                if trial.outcome == "finished" and best is not None:
                    study.tell(told, best)
                else:
                    study.tell(told, state=states.PRUNED if trial.outcome != "failed" and best is not None else states.FAIL)
                continue
            asked[number].report(value, step)
            if asked[number].should_prune():
                condemned.add(number)
    return study, condemned


def _in_order(trials: Sequence[Trial]) -> list[tuple[int, int | None, float]]:
    """Return (number, step, value) of every report and (number, None, 0) of every end, by time. A report never comes after its end."""
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
        return optuna.pruners.MedianPruner(n_startup_trials=FEWEST_TO_PRUNE_BY, n_warmup_steps=config.run.warmup_steps)
    if config.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(
            min_resource=min(config.run.eval_every, config.run.max_steps), max_resource=config.run.max_steps, reduction_factor=3
        )
    return optuna.pruners.NopPruner()


def _distribution(path: str, choice: Values | Span) -> optuna.distributions.BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(choice, Values):
        return CategoricalDistribution(list(dict.fromkeys(choice.values)))
    if kind_of(path) is int:
        return IntDistribution(round(choice.low), round(choice.high), log=choice.log)
    return FloatDistribution(choice.low, choice.high, log=choice.log)


def _rounded(path: str, value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) and kind_of(path) is float else value
