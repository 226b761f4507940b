"""`roundhouse export`: a checkpoint as a folder for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backend.bootstrap import get_context
from backend.cli.output import JsonFlag, command, emit
from backend.cli.waiting import wait_for_job
from backend.services.checkpoint_files import check_destination, copy_export, export_checkpoint
from backend.services.checkpoints import resolve_checkpoint
from backend.services.context import LOCAL

app = typer.Typer()


@app.command("export")
@command
def export(
    checkpoint: str,
    to: Annotated[Path, typer.Option(help="A folder that does not exist yet.")],
    format: Annotated[str, typer.Option(help="hf: as it is; merged: an adapter folded into its base.")] = "hf",
    as_json: JsonFlag = False,
) -> None:
    """Write a checkpoint to a folder that Hugging Face tools load."""
    ctx = get_context()
    found = resolve_checkpoint(ctx, checkpoint)
    destination = check_destination(to.expanduser().resolve())
    job = wait_for_job(ctx, export_checkpoint(ctx, found.id, format=format, person=LOCAL).id)
    copy_export(ctx, job, destination)
    files = sorted(path.relative_to(destination).as_posix() for path in destination.rglob("*") if path.is_file())
    data = {
        "checkpoint": found.name,
        "format": format,
        "folder": str(destination),
        "files": files,
        "parameters": job.result.get("parameters"),
    }
    emit(data, as_json=as_json, text=f"Exported {found.name} to {destination}: {len(files)} files.")
