"""`roundhouse base`: checkpoints that were made elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from backend.bootstrap import get_context
from backend.cli.output import JsonFlag, command, emit
from backend.cli.waiting import wait_for_job
from backend.services.checkpoint_files import add_base
from backend.services.checkpoints import CheckpointView, get_checkpoint, list_checkpoints
from backend.services.context import LOCAL

app = typer.Typer(no_args_is_help=True)


@app.command("add")
@command
def add(
    source: Annotated[str, typer.Argument(help="A folder with config.json and safetensors, a .gguf file, or a Hub id.")],
    name: Annotated[str, typer.Option(help="What it will be called.")],
    as_json: JsonFlag = False,
) -> None:
    """Add a base, and wait until it has been read and checked."""
    ctx = get_context()
    path = Path(source).expanduser()
    base = add_base(ctx, name=name, source=str(path.resolve()) if path.exists() else source, person=LOCAL)
    assert base.job_id is not None
    wait_for_job(ctx, base.job_id)
    done = get_checkpoint(ctx, base.id)
    parameters = f"{done.parameters:,}" if done.parameters else "unknown"
    emit(
        checkpoint_data(done),
        as_json=as_json,
        text=f"Added {done.name}: {done.family}, {parameters} parameters, {done.bytes / 1e6:,.1f} MB.",
    )


@app.command("list")
@command
def list_(as_json: JsonFlag = False) -> None:
    """List checkpoints, bases and those of runs."""
    found = list_checkpoints(get_context())
    emit(
        {"checkpoints": [checkpoint_data(c) for c in found]},
        as_json=as_json,
        text="\n".join(f"{c.name}  {c.family}  {c.parameters or 0:,} parameters" for c in found) or "No checkpoints yet.",
    )


def checkpoint_data(checkpoint: CheckpointView) -> dict[str, Any]:
    """Return what the command line says about a checkpoint."""
    return {
        "checkpoint": checkpoint.name,
        "id": checkpoint.id,
        "origin": checkpoint.origin,
        "family": checkpoint.family,
        "parameters": checkpoint.parameters,
        "bytes": checkpoint.bytes,
        "run": checkpoint.run,
        "step": checkpoint.step,
        "parent": checkpoint.parent,
        "is_adapter": checkpoint.is_adapter,
        "is_ready": checkpoint.is_ready,
        "source": checkpoint.source,
        "metrics": checkpoint.metrics,
        **checkpoint.facts,
    }
