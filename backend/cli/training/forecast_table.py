"""Forecasts of runs and sweeps as lines and as JSON, and the confirmation of warnings before a launch."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from backend.cli.output import is_json, note
from backend.domain.attributes import attributes_of
from backend.domain.estimates.prediction import describe_fit, format_memory, format_run_time
from backend.domain.training.launch_warnings import LaunchWarning
from backend.domain.wording import format_bytes, format_duration, format_usd
from backend.errors import InvalidInput
from backend.services.estimates.forecasts import Forecast, QueuePosition, SweepForecast, describe_epochs


def forecast_lines(expected: Forecast, *, nodes: str = "") -> list[str]:
    """Return a forecast as lines, one per known figure. `nodes`: the place of a run that is sent to a cluster."""
    epochs = f", {describe_epochs(expected)}" if expected.epochs else ""
    time = expected.prediction.time
    lines = [
        f"tokens       {'at most ' if expected.tokens_at_most else ''}{expected.tokens:,} in {expected.steps:,}"
        f" steps{epochs}",
        f"time         {format_run_time(time)}" + (f", {time.source}" if time else ""),
        f"peak memory  {format_memory(expected.prediction.memory)}. {describe_fit(expected.prediction)}",
        (
            f"disk         {format_bytes(expected.disk_bytes)} for {expected.num_checkpoints} checkpoints, "
            f"{format_bytes(expected.free_bytes)} free"
        ),
    ]
    if expected.cost_usd is not None:
        price = (
            "" if expected.price_usd is None else f" at {format_usd(expected.price_usd, is_price=True)} per device-hour"
        )
        lines.append(f"cost         {format_usd(expected.cost_usd)}{price}")
    if expected.loss is not None:
        low, high = expected.loss.estimate.low, expected.loss.estimate.high
        interval = f" ({low:.3f} to {high:.3f})" if low is not None and high is not None else ""
        lines.append(f"val_loss     about {expected.loss.estimate.value:.3f}{interval} by {expected.loss.law}")
    elif expected.loss_missing:
        lines.append(f"val_loss     unknown: {expected.loss_missing}")
    if unused := expected.parts.unused_rows:
        lines.append(f"vocabulary   {unused:,} embedding rows that no token of the tokenizer uses")
    if nodes:
        return [*lines, f"machines     {nodes}"]
    if expected.gang is None or expected.gang.can_start:
        lines.append(f"queue        {_describe_queue(expected.queue)}")
    return [*lines, f"machines     {expected.gang.sentence}"] if expected.gang else lines


def sweep_lines(total: SweepForecast) -> list[str]:
    """Return the forecast of a sweep as lines."""
    time = (
        f"about {format_duration(total.seconds)}" if total.seconds is not None else "unknown before a probe of the run"
    )
    lines = [
        f"runs         {total.num_runs}, {total.at_once} at a time",
        f"time         {time} in all",
        f"disk         {format_bytes(total.disk_bytes)} for all runs",
    ]
    if total.memory_bytes is not None:
        lines.insert(2, f"peak memory  {format_bytes(total.memory_bytes)} for the largest run")
    if total.cost_usd is not None:
        lines.append(f"cost         {format_usd(total.cost_usd)}")
    return [*lines, f"warning      some runs can't be launched: {total.problem}"] if total.problem else lines


def _describe_queue(position: QueuePosition) -> str:
    if position.num_slots == 0:
        return "no worker serves it at the moment"
    if position.ahead == 0:
        return "starts at once"
    wait = f", about {format_duration(position.wait_s)}" if position.wait_s is not None else ""
    return f"{position.ahead} ahead{wait}"


def warning_lines(warnings: Sequence[LaunchWarning]) -> list[str]:
    """Return one line per warning."""
    return [f"warning      {warning.field}: {warning.sentence} {warning.cure}".rstrip() for warning in warnings]


def describe_forecast(expected: Forecast, *, nodes: str = "") -> dict[str, object]:
    """Return a forecast as a JSON object, in bytes, seconds and US dollars. `nodes`: as of `forecast_lines`."""
    memory, time, loss = expected.prediction.memory, expected.prediction.time, expected.loss
    return {
        **attributes_of(
            expected,
            "steps",
            "tokens",
            "tokens_at_most",
            "epochs",
            "epochs_at_least",
            "epochs_at_most",
            "epochs_estimated",
        ),
        "device": expected.prediction.device,
        "fits": expected.prediction.fits,
        "memory_bytes": memory.num_bytes,
        "memory_source": memory.source,
        "memory_error": memory.error,
        "seconds": expected.seconds,
        "tokens_per_s": time.tokens_per_s if time else None,
        "time_source": time.source if time else None,
        **attributes_of(expected, "disk_bytes", "free_bytes", "cost_usd"),
        "expected_val_loss": loss.estimate.value if loss else None,
        "expected_val_loss_interval": [loss.estimate.low, loss.estimate.high] if loss else None,
        "law": loss.law if loss else None,
        "ahead": expected.queue.ahead,
        "wait_s": expected.queue.wait_s,
        "workers": expected.queue.num_slots,
        "machines": nodes or (expected.gang.sentence if expected.gang else None),
        "unused_embedding_rows": expected.parts.unused_rows,
        "warnings": [warning.model_dump(mode="json") for warning in expected.warnings],
    }


def describe_sweep_forecast(total: SweepForecast) -> dict[str, object]:
    """Return the forecast of a sweep as a JSON object, in bytes, seconds and US dollars."""
    return {
        "runs": total.num_runs,
        **attributes_of(
            total, "at_once", "seconds", "run_seconds", "memory_bytes", "disk_bytes", "cost_usd", "is_sampled"
        ),
        "problem": total.problem or None,
    }


def ask_to_proceed(warnings: Sequence[LaunchWarning], *, yes: bool) -> None:
    """Print warnings, and ask at a terminal whether to launch, unless `yes`.

    Without a terminal, as in a script, they are printed and the launch continues. Raises InvalidInput if the answer is
    no.
    """
    for line in warning_lines(warnings):
        note(line)
    if warnings and not yes and not is_json() and sys.stdin.isatty() and not typer.confirm("Launch anyway?", err=True):
        raise InvalidInput(
            "Nothing was launched.", remedy="Correct the config, or launch it with --yes.", field=warnings[0].field
        )
