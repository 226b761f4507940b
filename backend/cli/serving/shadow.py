"""`roundhouse endpoint shadow`: copies of requests to a second checkpoint or endpoint, compared and never shown."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from backend.bootstrap import get_context
from backend.cli.output import CommandGroup, emit
from backend.services.checkpoints.checkpoints import resolve_checkpoint
from backend.services.context import LOCAL
from backend.services.serving.endpoints import EndpointView
from backend.services.serving.shadows import read_shadow, start_shadow, stop_shadow

app = CommandGroup(no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Name of the endpoint whose requests are copied.")]


@app.command("start")
def start(
    name: Name,
    checkpoint: Annotated[
        str | None, typer.Option(help="Checkpoint or alias that answers the copies, with replicas of its own.")
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help="Endpoint that answers the copies.")] = None,
    percent: Annotated[float, typer.Option(help="Share of the requests that is copied.")] = 10.0,
    replicas: Annotated[int, typer.Option(min=1, help="Replicas of the checkpoint.")] = 1,
) -> None:
    """Send copies of a share of the requests to a shadow. Its answers are compared, never shown, and cost no key
    anything.
    """
    ctx = get_context()
    subject = None if checkpoint is None else resolve_checkpoint(ctx, checkpoint).id
    _emit(
        start_shadow(
            ctx, name, checkpoint_id=subject, endpoint=endpoint, percent=percent, num_replicas=replicas, person=LOCAL
        )
    )


@app.command("stop")
def stop(name: Name) -> None:
    """End the shadow. Its comparisons stay for 30 days."""
    _emit(stop_shadow(get_context(), name, person=LOCAL))


@app.command("report")
def report(name: Name) -> None:
    """Show how the copies compare: equal greedy answers, lengths, times and errors."""
    ctx = get_context()
    result = read_shadow(ctx, name)
    emit({"endpoint": name, **asdict(result)}, text=f"{name}: {result.describe()}")


def _emit(view: EndpointView) -> None:
    shadow = view.shadow
    goal = "" if shadow is None else shadow.endpoint or shadow.checkpoint_name
    text = f"{goal} gets copies of {shadow.percent:g} % of {view.name}." if shadow else f"{view.name} has no shadow."
    emit({"endpoint": view.name, "shadow": asdict(shadow) if shadow else None}, text=text)
