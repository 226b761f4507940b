"""`roundhouse data`: datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from backend.bootstrap import get_context
from backend.cli.data_report import report
from backend.cli.output import JsonFlag, command, emit, note
from backend.cli.waiting import wait_for_job
from backend.services.context import LOCAL
from backend.services.datasets import VersionView, import_dataset, list_datasets, version_of_job
from backend.services.inspection import inspect_file

app = typer.Typer(no_args_is_help=True)
app.command("report")(report)


@app.command("import")
@command
def import_(
    file: Path,
    name: Annotated[str, typer.Option(help="The dataset's name; one that exists gets a new version.")],
    kind: Annotated[
        str | None, typer.Option(help="text, instruction, chat, preference, benchmark or prompts; recognised when left out.")
    ] = None,
    column: Annotated[list[str] | None, typer.Option(help="COLUMN=FIELD, as often as needed; recognised when left out.")] = None,
    val_fraction: Annotated[float, typer.Option(help="Share kept for validation.")] = 0.05,
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 1,
    as_json: JsonFlag = False,
) -> None:
    """Import a file as a new version of a dataset, and wait for it."""
    ctx = get_context()
    mapping = dict(part.partition("=")[::2] for part in column or [])
    if kind is None:
        kind = inspect_file(file).kind
        note(f"Recognised as {kind}.")
    version = import_dataset(
        ctx, name=name, kind=kind, mapping=mapping, source_path=file, val_fraction=val_fraction, seed=seed, person=LOCAL
    )
    assert version.job_id is not None
    wait_for_job(ctx, version.job_id)
    done = version_of_job(ctx, version.job_id)
    emit(version_data(done), as_json=as_json, text=version_text(done))


@app.command("list")
@command
def list_(as_json: JsonFlag = False) -> None:
    """List datasets with their newest versions."""
    versions = [dataset.newest for dataset in list_datasets(get_context())]
    ready = [version for version in versions if version is not None]
    emit(
        {"datasets": [version_data(version) for version in ready]},
        as_json=as_json,
        text="\n".join(f"{v.label}  {v.kind}  {v.rows:,} rows  {'' if v.is_ready else v.status}".rstrip() for v in ready)
        or "No datasets yet.",
    )


def version_data(version: VersionView) -> dict[str, Any]:
    """Return what the command line says about a version."""
    return {
        "dataset": version.dataset,
        "version": version.number,
        "kind": version.kind,
        "rows": version.rows,
        "train_rows": version.train_rows,
        "val_rows": version.val_rows,
        "rejected_rows": version.rejected_rows,
        "rejected": list(version.rejected),
        "mapping": version.mapping,
        "content_hash": version.content_hash,
        "bytes": version.bytes,
        "reused": version.reused,
        "status": str(version.status),
        **version.facts,
    }


def version_text(version: VersionView) -> str:
    """Say what an import made."""
    lines = [
        f"{version.label}: {version.rows:,} rows of kind {version.kind}, {version.train_rows:,} to train on, {version.val_rows:,} for validation."
    ]
    if version.reused:
        lines.append("The content was there already: no new version was made.")
    if version.rejected_rows:
        lines.append(f"{version.rejected_rows:,} rows were rejected:")
        lines += [f"  row {item.get('row')}: {item.get('reason')}" for item in version.rejected[:10]]
    return "\n".join(lines)
