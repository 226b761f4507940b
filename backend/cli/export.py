"""`roundhouse export`: convert a checkpoint for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backend.bootstrap import get_context
from backend.cli.output import CommandGroup, emit
from backend.cli.waiting import wait_for_job
from backend.domain.checkpoints.export_formats import NUMBERS
from backend.domain.jobs.results import ExportResult
from backend.services.checkpoints.checkpoints import resolve_checkpoint
from backend.services.checkpoints.exports import export_checkpoint
from backend.services.context import LOCAL
from backend.services.jobs.exports import check_destination, copy_export

app = CommandGroup()


@app.command("export")
def export(
    checkpoint: str,
    to: Annotated[Path, typer.Option(help="A folder that does not exist yet.")],
    format: Annotated[
        str, typer.Option(help="hf: as it is; merged: an adapter folded into its base; gguf: one file for llama.cpp.")
    ] = "hf",
    numbers: Annotated[str, typer.Option(help=f"gguf: {', '.join(NUMBERS)}.")] = "f16",
    push: Annotated[
        str, typer.Option(help="Upload it to this repository (owner/name) of the Hub as well, by the key in HF_TOKEN.")
    ] = "",
    public: Annotated[bool, typer.Option(help="push: make a new repository public.")] = False,
) -> None:
    """Write a checkpoint in the format of another tool: a Hugging Face folder or GGUF."""
    ctx = get_context()
    resolved = resolve_checkpoint(ctx, checkpoint)
    destination = check_destination(to.expanduser().resolve())
    queued = export_checkpoint(
        ctx, resolved.id, format=format, numbers=numbers, push=push, private=not public, person=LOCAL
    )
    job = wait_for_job(ctx, queued.id)
    result = job.result_as(ExportResult)
    pushed = result.pushed if result else None
    files = copy_export(ctx, job, destination)
    data = {
        "checkpoint": resolved.name,
        "format": format,
        "folder": str(destination),
        "files": files,
        "parameters": result.parameters if result else None,
        "bits_per_weight": result.bits_per_weight if result else None,
        "check": result.check.model_dump() if result and result.check else None,
        "pushed": pushed.model_dump() if pushed else None,
    }
    numbers = f" {result.bits_per_weight} bits per weight." if result and result.bits_per_weight else ""
    cost = f" {result.check.describe()}." if result and result.check else ""
    address = f" Pushed to {pushed.url}." if pushed else ""
    emit(
        data,
        text=f"Exported {resolved.name} to {destination}: {len(files)} files.{numbers}{cost}{address}",
    )
