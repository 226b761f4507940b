"""`roundhouse data export`: a dataset version for other tools."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from backend.bootstrap import get_context
from backend.cli.output import command, emit
from backend.cli.waiting import wait_for_job
from backend.domain.jobs.results import DatasetExportResult
from backend.domain.wording import plural
from backend.errors import InvalidInput
from backend.services.context import LOCAL
from backend.services.data.datasets import resolve_version
from backend.services.data.exports import export_version
from backend.services.jobs.exports import check_destination, copy_export


@command
def export(
    name: Annotated[str, typer.Argument(help="A dataset, or NAME@VERSION.")],
    to: Annotated[Path | None, typer.Option(help="A folder that does not exist yet.")] = None,
    format: Annotated[
        str, typer.Option(help="datasets: for datasets.load_from_disk; parquet: as on the Hub; jsonl: JSON lines.")
    ] = "datasets",
    push: Annotated[
        str,
        typer.Option(
            help="Upload the rows to this dataset repository (owner/name) of the Hub, by the key in HF_TOKEN."
        ),
    ] = "",
    public: Annotated[bool, typer.Option("--public", help="push: make a new repository public.")] = False,
) -> None:
    """Write a dataset version to a folder for other tools, push it to a Hub, or both."""
    if to is None and not push:
        raise InvalidInput(
            "The export has no destination.", remedy="Give --to FOLDER, --push OWNER/NAME or both.", field="to"
        )
    ctx = get_context()
    version = resolve_version(ctx, name)
    destination = check_destination(to.expanduser().resolve()) if to is not None else None
    queued = export_version(ctx, version.id, format=format, push=push, private=not public, person=LOCAL)
    job = wait_for_job(ctx, queued.id)
    result = DatasetExportResult.model_validate(job.result)
    if destination is not None:
        copy_export(ctx, job, destination)
    else:
        shutil.rmtree(ctx.artifacts.path(result.folder), ignore_errors=True)
    files = (
        sorted(path.relative_to(destination).as_posix() for path in destination.rglob("*") if path.is_file())
        if destination
        else []
    )
    data = {
        "dataset": version.dataset,
        "version": version.number,
        "format": format,
        "rows": result.rows,
        "folder": str(destination) if destination else None,
        "files": files,
        "pushed": result.pushed.model_dump() if result.pushed else None,
    }
    sentences = [f"Exported {version.label} to {destination}: {plural(len(files), 'file')}."] if destination else []
    sentences += [f"Pushed {version.label} to {result.pushed.url}."] if result.pushed else []
    emit(data, text=" ".join(sentences))
