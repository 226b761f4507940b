"""Forecast of a sweep: number of runs, parallel runs, time, memory, disk and cost."""

from __future__ import annotations

import heapq
import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from backend.domain.training.config import RunConfig
from backend.domain.training.config_fields import traits_of, values_affecting
from backend.domain.training.sweep import SweepConfig, build_run, list_points
from backend.domain.training.traits import Effect
from backend.errors import RoundhouseError
from backend.services.context import Context
from backend.services.estimates.forecasts import Forecast, forecast
from backend.services.training.parts import RunParts

MAX_FORECASTS = 12
"""Maximum number of different runs to forecast; of more, an even sample is used."""


@dataclass(frozen=True)
class SweepForecast:
    """Expected needs of a sweep.

    `seconds` is the time from the first start to the last end with `at_once` runs at a time, as many as asked for while
    no worker serves them; `run_seconds` the shortest and the longest run. Both are None unless the time of every run is
    known. `memory_bytes` is the largest peak of a run. `disk_bytes` are those of the checkpoints of all runs.
    `is_sampled`: not every run was forecast. `problem` is the reason why some run can't be launched.
    """

    num_runs: int
    at_once: int
    seconds: float | None
    run_seconds: tuple[float, float] | None
    memory_bytes: int | None
    disk_bytes: int
    cost_usd: float | None
    is_sampled: bool
    problem: str = ""


def forecast_sweep(ctx: Context, config: SweepConfig, *, base: Forecast) -> SweepForecast:
    """Predict a sweep from forecasts of its different runs. `base` is the forecast of the run that all are variations
    of.

    Of a bayesian sweep, which draws values as it goes, the corners of its ranges are forecast. Parts are resolved again
    only for runs that name other rows, context or devices.
    """
    points = list_points(config)
    runs = [build_run(config, point, number) for number, point in enumerate(points)]
    kinds = [_kind(run) for run in runs]
    different = dict(zip(kinds, runs, strict=True))
    picked = _spread(list(different), MAX_FORECASTS)
    forecasts: dict[str, Forecast] = {}
    problem = ""
    for kind in picked:
        try:
            forecasts[kind] = forecast(ctx, different[kind], parts=_shared_parts(config, base))
        except RoundhouseError as error:
            problem = problem or str(error)
    known = [forecasts[kind] for kind in kinds if kind in forecasts] or [base]
    at_once = min(config.parallel, config.num_runs, base.queue.num_slots or config.parallel)
    times = [each.seconds for each in known if each.seconds is not None]
    is_timed = len(times) == len(known)
    return SweepForecast(
        num_runs=config.num_runs,
        at_once=at_once,
        seconds=makespan(_fill(times, config.num_runs), slots=at_once) if is_timed else None,
        run_seconds=(min(times), max(times)) if is_timed else None,
        memory_bytes=max(
            (each.prediction.memory.num_bytes for each in known if each.prediction.memory.num_bytes is not None),
            default=None,
        ),
        disk_bytes=round(mean(each.disk_bytes for each in known) * config.num_runs),
        cost_usd=_cost(known, config.num_runs),
        is_sampled=len(known) < config.num_runs or config.method == "bayesian",
        problem=problem,
    )


def makespan(durations: Sequence[float], *, slots: int) -> float:
    """Return the time until the last of several jobs ends, each started in turn as a slot becomes free.

    Example:
        >>> makespan([3.0, 1.0, 1.0, 1.0], slots=2)
        3.0
    """
    free = [0.0] * slots
    for duration in durations:
        heapq.heapreplace(free, free[0] + duration)
    return max(free)


def _kind(run: RunConfig) -> str:
    return json.dumps(values_affecting(run, Effect.MEMORY, Effect.STEP_TIME, Effect.LENGTH), sort_keys=True)


def _shared_parts(config: SweepConfig, base: Forecast) -> RunParts | None:
    """Return the base run's parts, unless a varied field changes them or their checks."""
    changing = {Effect.MEMORY, Effect.STEP_TIME}
    return None if any(traits_of(path).affects & changing for path in config.vary) else base.parts


def _spread(items: Sequence[str], most: int) -> list[str]:
    """Return at most `count` items, evenly spread."""
    if len(items) <= most:
        return list(items)
    return [items[index * (len(items) - 1) // (most - 1)] for index in range(most)]


def _fill(times: Sequence[float], count: int) -> list[float]:
    """Repeat the known times cyclically to the number of runs."""
    return [times[index % len(times)] for index in range(count)]


def _cost(known: Sequence[Forecast], num_runs: int) -> float | None:
    costs = [each.cost_usd for each in known if each.cost_usd is not None]
    return mean(costs) * num_runs if len(costs) == len(known) else None
