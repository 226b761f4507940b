"""What a run will do, as lines and as JSON; and the question that warnings ask before a launch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import typer

from backend.cli.output import note
from backend.domain.estimates.prediction import say_fit, say_memory, say_time
from backend.domain.training.launch_warnings import LaunchWarning
from backend.domain.wording import say_bytes, say_duration
from backend.errors import InvalidInput
from backend.services.estimates.forecasts import Forecast


def forecast_lines(found: Forecast) -> list[str]:
    """Return what will happen, a line for each thing that is known."""
    read = f", read {'at least ' if found.epochs_at_least else ''}{found.epochs:.3g} times" if found.epochs else ""
    lines = [
        f"tokens       {found.tokens:,} in {found.steps:,} steps{read}",
        f"time         {say_time(found.prediction.time)}" + (f", {found.prediction.time.source}" if found.prediction.time else ""),
        f"peak memory  {say_memory(found.prediction.memory)}. {say_fit(found.prediction)}",
        f"disk         {say_bytes(found.disk_bytes)} for {found.num_checkpoints} checkpoints, {say_bytes(found.free_bytes)} free",
    ]
    if found.cost_usd is not None:
        lines.append(f"cost         {found.cost_usd:,.2f} US dollars at {found.price_usd:g} for a device-hour")
    if found.loss is not None:
        low, high = found.loss.estimate.low, found.loss.estimate.high
        between = f" ({low:.3f} to {high:.3f})" if low is not None and high is not None else ""
        lines.append(f"val_loss     about {found.loss.estimate.value:.3f}{between} by {found.loss.law}")
    elif found.loss_missing:
        lines.append(f"val_loss     not known: {found.loss_missing}")
    place = found.queue
    if place.num_slots == 0:
        lines.append("queue        no worker serves it at the moment")
    elif place.ahead == 0:
        lines.append("queue        starts at once")
    else:
        wait = f", about {say_duration(place.wait_s)}" if place.wait_s is not None else ""
        lines.append(f"queue        {place.ahead} ahead{wait}")
    return lines


def warning_lines(warnings: Sequence[LaunchWarning]) -> list[str]:
    """Return a line a warning."""
    return [f"warning      {warning.field}: {warning.sentence} {warning.cure}".rstrip() for warning in warnings]


def describe_forecast(found: Forecast) -> dict[str, Any]:
    """Return what will happen as a JSON object; bytes, seconds, US dollars."""
    memory, time, loss = found.prediction.memory, found.prediction.time, found.loss
    return {
        "steps": found.steps,
        "tokens": found.tokens,
        "epochs": found.epochs,
        "epochs_at_least": found.epochs_at_least,
        "device": found.prediction.device,
        "fits": found.prediction.fits,
        "memory_bytes": memory.num_bytes,
        "memory_source": memory.source,
        "memory_error": memory.error,
        "seconds": time.seconds if time else None,
        "tokens_per_s": time.tokens_per_s if time else None,
        "time_source": time.source if time else None,
        "disk_bytes": found.disk_bytes,
        "free_bytes": found.free_bytes,
        "cost_usd": found.cost_usd,
        "expected_val_loss": loss.estimate.value if loss else None,
        "expected_val_loss_interval": [loss.estimate.low, loss.estimate.high] if loss else None,
        "law": loss.law if loss else None,
        "ahead": found.queue.ahead,
        "wait_s": found.queue.wait_s,
        "workers": found.queue.num_slots,
        "warnings": [warning.model_dump(mode="json") for warning in found.warnings],
    }


def ask_to_proceed(warnings: Sequence[LaunchWarning], *, yes: bool, as_json: bool) -> None:
    """Print warnings, and ask at a terminal whether to launch all the same; `yes` is the answer given in advance.

    Where nobody sits there to answer, as in a script, they are printed and the launch goes on. Raises InvalidInput if the answer is no.
    """
    for line in warning_lines(warnings):
        note(line)
    if warnings and not yes and not as_json and sys.stdin.isatty() and not typer.confirm("Launch anyway?", err=True):
        raise InvalidInput("Nothing was launched.", remedy="Correct the config, or launch it with --yes.", field=warnings[0].field)
