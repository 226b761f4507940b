"""Exports of checkpoints and datasets: their files, and their commit on a Hub."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from backend.db.tables import Job
from backend.domain.jobs.payloads import DatasetExportPayload, ExportPayload, require_folder
from backend.domain.jobs.results import DatasetExportResult, ExportResult, Pushed
from backend.domain.jobs.states import JobKind, Status
from backend.domain.serving.precision import PrecisionCheck
from backend.errors import Conflict, NotFound
from backend.services.checkpoints.files import zip_folder
from backend.services.context import Context, Person, require_builder
from backend.services.jobs.jobs import JobView, add_job, view, wake

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
EXPORTS: dict[str, type[ExportPayload] | type[DatasetExportPayload]] = {
    JobKind.EXPORT: ExportPayload,
    JobKind.EXPORT_DATASET: DatasetExportPayload,
}
"""Kinds of jobs that write an export, with their payloads."""


@dataclass(frozen=True)
class ExportView:
    """An export. `folder` holds its files, None until it is written or once it is deleted; `pushed` is the commit on
    the Hub. `bits_per_weight` and `check` are those of a GGUF file, the second if it is quantised.
    """

    job: JobView
    format: str
    numbers: str
    folder: str | None
    files: tuple[str, ...]
    bytes: int
    push: str
    pushed: Pushed | None
    bits_per_weight: float | None = None
    check: PrecisionCheck | None = None


def queue_export(ctx: Context, payload: ExportPayload | DatasetExportPayload, *, title: str, person: Person) -> JobView:
    """Queue the job of an export."""
    with ctx.db.write() as session:
        queued = view(add_job(session, ctx, payload, title=title, device="cpu", created_by=person.id))
    wake(ctx, "cpu")
    return queued


def get_export(ctx: Context, job_id: str) -> ExportView:
    """Return one export. Raises NotFound."""
    with ctx.db.read() as session:
        job = session.get(Job, job_id)
        if job is None or job.kind not in EXPORTS:
            raise NotFound(f"There is no export {job_id}.")
        return view_export(ctx, view(job), EXPORTS[job.kind].read(job.payload))


def view_export(ctx: Context, job: JobView, payload: ExportPayload | DatasetExportPayload) -> ExportView:
    """Return an export with the names of its files."""
    result = _result(job)
    sizes = ctx.artifacts.sizes(payload.out) if job.status is Status.FINISHED else {}
    return ExportView(
        job=job,
        format=payload.format,
        numbers=payload.numbers if isinstance(payload, ExportPayload) else "",
        folder=payload.out if sizes else None,
        files=tuple(sizes),
        bytes=sum(sizes.values()),
        push=payload.push.repo if payload.push else "",
        pushed=result.pushed if result else None,
        bits_per_weight=result.bits_per_weight if isinstance(result, ExportResult) else None,
        check=result.check if isinstance(result, ExportResult) else None,
    )


def delete_export(ctx: Context, job_id: str, *, person: Person) -> None:
    """Delete the local files of an export; a pushed copy stays on the Hub. Raises Conflict until its job has ended."""
    require_builder(person)
    export = get_export(ctx, job_id)
    if export.job.is_active:
        raise Conflict("This export is still being written.", remedy="Stop it first.")
    if export.folder is not None:
        ctx.artifacts.remove(export.folder)


def export_file(ctx: Context, job_id: str, *, person: Person) -> Path:
    """Return one file for a download: the GGUF file itself, or the folder as a zip file. Raises Conflict if deleted."""
    require_builder(person)
    export = get_export(ctx, job_id)
    if export.folder is None:
        raise Conflict("The files of this export are missing.", remedy="Export it again.")
    root = ctx.artifacts.path(export.folder)
    if (single := next(root.glob("*.gguf"), None)) is not None:
        return single
    return zip_folder(ctx, root, name=f"export-{job_id}", size=export.bytes)


def check_destination(folder: Path) -> Path:
    """Return the destination folder of an export. Raises Conflict if it is not empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(
            f"{folder} already exists and is not empty.", remedy="Name a folder that does not exist yet.", field="to"
        )
    return folder


def copy_export(ctx: Context, job: JobView, destination: Path) -> list[str]:
    """Move a finished export to a folder outside the artifacts; return its files. Raises Conflict if the folder is not
    empty.
    """
    check_destination(destination)
    result = _result(job)
    folder = require_folder(result.folder if result else None, what="export")
    shutil.copytree(ctx.artifacts.path(folder), destination, dirs_exist_ok=True)
    ctx.artifacts.remove(folder)
    return sorted(path.relative_to(destination).as_posix() for path in destination.rglob("*") if path.is_file())


def _result(job: JobView) -> ExportResult | DatasetExportResult | None:
    return job.result_as(DatasetExportResult) if job.kind == JobKind.EXPORT_DATASET else job.result_as(ExportResult)


def file_name(name: str) -> str:
    """Return a name as a valid file name."""
    return (
        re.sub("-{2,}", "-", "".join(c if c.isalnum() or c in "-_." else "-" for c in name))[:80].strip("-.")
        or "checkpoint"
    )
