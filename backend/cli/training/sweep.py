"""`roundhouse run sweep`: many runs with different values of some fields, to find the best."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from backend.bootstrap import get_context
from backend.cli.output import command, emit, note, read_text
from backend.cli.training.forecast_table import ask_to_proceed, describe_sweep_forecast, sweep_lines
from backend.cli.waiting import POLL_S, wait_for_job
from backend.domain.jobs.states import Status, status_word
from backend.domain.training.sweep import SweepConfig, build_run, point_at
from backend.domain.wording import plural
from backend.errors import JobFailed
from backend.services.context import LOCAL, Context
from backend.services.estimates.forecasts import forecast, forecast_sweep
from backend.services.jobs.workers import has_worker
from backend.services.training.sweeps import (
    SweepDetail,
    advance_sweep,
    launch_sweep,
    read_sweep,
    stop_sweep,
    sweep_detail,
)


@command
def sweep(
    file: Annotated[Path, typer.Argument(help="A sweep as YAML: name, run, vary, method, runs, parallel, pruner.")],
    preview: Annotated[
        bool, typer.Option("--preview", help="Show its estimate and its known runs, and launch nothing.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return when the sweep is done.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Accept all warnings.")] = False,
    on: Annotated[
        str | None, typer.Option(help="Partition of a cluster to run on, such as slurm:gpu; else the workers here.")
    ] = None,
) -> None:
    """Launch a sweep: a group of runs that differ in chosen fields. Launching the same file again changes nothing."""
    ctx = get_context()
    config = read_sweep(read_text(file))
    one = forecast(ctx, build_run(config, {}, 0))
    total = forecast_sweep(ctx, config, base=one)
    if preview:
        known = [] if config.method == "bayesian" else [point_at(config, number) for number in range(config.num_runs)]
        lines = [
            *sweep_lines(total),
            *(f"  {number + 1}: {_format_point(point)}" for number, point in enumerate(known)),
        ]
        data = {
            "runs": config.num_runs,
            "method": config.method,
            "points": known,
            "forecast": describe_sweep_forecast(total),
        }
        emit(data, text="\n".join(lines))
        return
    for line in sweep_lines(total):
        note(line)
    ask_to_proceed(one.warnings, yes=yes)
    launched = launch_sweep(ctx, config, person=LOCAL, placement=on)
    if wait:
        _wait_for_sweep(ctx, launched.id)
    _emit(config, sweep_detail(ctx, launched.id))


@command
def sweep_show(name: Annotated[str, typer.Argument(help="A sweep's name or id.")]) -> None:
    """Show a sweep: its progress, its runs with their values, the best."""
    detail = sweep_detail(get_context(), name)
    _emit(detail.sweep.config, detail)


@command
def sweep_stop(name: Annotated[str, typer.Argument(help="A sweep's name or id.")]) -> None:
    """Launch no more runs of a sweep, and ask its active runs to stop and save."""
    stopped = stop_sweep(get_context(), name, person=LOCAL)
    emit({"stopped": stopped}, text=f"Asked {plural(stopped, 'run')} to stop.")


def _wait_for_sweep(ctx: Context, sweep_id: str) -> None:
    """Return when a sweep is done. Without a training worker its runs are executed here, one after the other."""
    while True:
        advance_sweep(ctx, sweep_id)
        detail = sweep_detail(ctx, sweep_id)
        if not detail.sweep.is_active:
            return
        waiting = next((each.run for each in detail.runs if each.run.status is Status.QUEUED and each.run.job_id), None)
        if waiting is None or has_worker(ctx, "train"):
            time.sleep(POLL_S)
            continue
        note(f"{waiting.name}: {detail.sweep.num_done} of {detail.sweep.num_planned} done")
        try:
            wait_for_job(ctx, str(waiting.job_id), quiet=True)
        except JobFailed as error:  # a failed run does not end the sweep
            note(f"{waiting.name}: {error}")


def _emit(config: SweepConfig, detail: SweepDetail) -> None:
    view, best = detail.sweep, detail.best
    data: dict[str, object] = {
        "sweep": view.id,
        "name": view.name,
        "method": config.method,
        "metric": config.metric,
        "goal": config.goal,
        "planned": view.num_planned,
        "launched": view.num_launched,
        "active": view.num_active,
        "done": view.num_done,
        "failed": view.num_failed,
        "problem": view.problem or None,
        "best": best.run.id if best else None,
        "runs": [
            {
                "run": each.run.id,
                "name": each.run.name,
                "status": each.run.status.value,
                "values": each.point,
                config.metric: each.value,
                "pruned_at": each.pruned_at,
            }
            for each in detail.runs
        ],
    }
    lines = [
        f"{view.name} ({view.id}): {view.num_done} of {view.num_planned} runs done, {view.num_active} queued or running"
    ]
    for each in detail.runs:
        value = f"{config.metric} {each.value:.4f}" if each.value is not None else ""
        mark = "*" if best is not None and each.run.id == best.run.id else " "
        state = f"pruned at step {each.pruned_at}" if each.pruned_at is not None else status_word(each.run.status)
        lines.append(f"{mark} {each.run.name}  {_format_point(each.point)}  {value}  {state}")
    if view.problem:
        lines.append(view.problem)
    emit(data, text="\n".join(lines))


def _format_point(point: Mapping[str, object]) -> str:
    return "  ".join(
        f"{path} {value:g}" if isinstance(value, float) else f"{path} {value}" for path, value in point.items()
    )
