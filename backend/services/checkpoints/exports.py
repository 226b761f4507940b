"""Exports of checkpoints: folders and files for other tools, fetched from here or pushed to a Hub."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from backend.db.base import new_id
from backend.db.tables import Job
from backend.domain.checkpoints.export_formats import FORMATS, NUMBERS, gguf_refusal
from backend.domain.jobs.payloads import ExportPayload, HubTarget, require_folder
from backend.domain.jobs.states import JobKind, Status
from backend.errors import Conflict, InvalidInput, NotFound
from backend.services.checkpoints.checkpoints import CheckpointView, require_writer, resolve_checkpoint
from backend.services.checkpoints.files import zip_folder
from backend.services.context import Context, Person, require_builder
from backend.services.jobs.jobs import JobView, add_job, view, wake
from backend.services.training.reports import report_text

MOST_SHOWN = 200
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


@dataclass(frozen=True)
class ExportView:
    """An export asked for. `folder` is where it lies, None while it is not there or no more; `pushed_to` the address on the Hub."""

    job: JobView
    format: str
    numbers: str
    folder: str | None
    files: tuple[str, ...]
    bytes: int
    push: str
    pushed_to: str


def export_checkpoint(
    ctx: Context,
    checkpoint: str,
    *,
    format: str,
    person: Person,
    numbers: str = "f16",
    push: str = "",
    private: bool = True,
    idempotency_key: str | None = None,
) -> JobView:
    """Ask for an export; its job writes a folder under `exports/`, named in its result.

    `push` is the repository (owner/name) of the Hub that it is uploaded to as well, by the worker's own HF_TOKEN; a new one is `private`.
    Raises InvalidInput for a format, number or repository that can't be, NotFound, Conflict, NotAllowed.
    """
    require_builder(person)
    found = resolve_checkpoint(ctx, checkpoint)
    _check(ctx, found, format=format, numbers=numbers, push=push)
    payload = ExportPayload(
        checkpoint=require_folder(found.folder, what="checkpoint"),
        checkpoint_id=found.id,
        format=format,
        numbers=numbers,
        name=file_name(found.name),
        card=card_of(ctx, found),
        out=f"exports/{new_id()}",
        push=HubTarget(repo=push, private=private) if push else None,
    )
    with ctx.db.write() as session:
        if idempotency_key and (again := session.scalar(select(Job).where(Job.idempotency_key == idempotency_key))) is not None:
            return view(again)
        job = add_job(
            session,
            ctx,
            payload,
            title=f"Export {found.name}",
            device="cpu",
            idempotency_key=idempotency_key,
            created_by=person.id,
        )
        result = view(job)
    wake(ctx, "cpu")
    return result


def _check(ctx: Context, found: CheckpointView, *, format: str, numbers: str, push: str) -> None:
    if format not in FORMATS:
        raise InvalidInput(f"There is no export format {format!r}.", remedy=f"Choose one of {', '.join(FORMATS)}.", field="format")
    if numbers not in NUMBERS:
        raise InvalidInput(f"A GGUF file can't hold {numbers!r} here.", remedy=f"Choose one of {', '.join(NUMBERS)}.", field="numbers")
    if push and not HUB_ID.fullmatch(push):
        raise InvalidInput(f"{push} is no id of the Hub.", remedy="Write it as owner/name.", field="push")
    if format == "gguf":
        with ctx.db.read() as session:
            require_writer(session, found.id)
        if (refusal := gguf_refusal(found.family)) is not None:
            raise InvalidInput(refusal, remedy="Export it as a folder instead; llama.cpp's own converter reads that.", field="format")


def card_of(ctx: Context, checkpoint: CheckpointView) -> str:
    """Return the model card that goes with an export: the report of the run that made it, or the little that is known of a base."""
    if checkpoint.run_id:
        return report_text(ctx, checkpoint.run_id, public=True)
    facts = {
        "Family": checkpoint.family,
        "Parameters": f"{checkpoint.parameters:,}" if checkpoint.parameters else "",
        "Source": checkpoint.source if checkpoint.facts.get("revision") else "",  # a folder's path is nobody else's business
        "Licence": str(checkpoint.facts.get("licence") or "not stated"),
    }
    lines = [f"- {label}: {_plain(value)}" for label, value in facts.items() if value]
    return "\n".join(["---", "library_name: transformers", "---", "", f"# {_plain(checkpoint.name)}", "", *lines, ""])


def _plain(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|!])", r"\\\1", " ".join(text.split()))


def list_exports(ctx: Context, checkpoint_id: str) -> list[ExportView]:
    """Return the exports of a checkpoint, newest first."""
    with ctx.db.read() as session:
        of_it = (Job.kind == JobKind.EXPORT, Job.payload["checkpoint_id"].as_string() == checkpoint_id)
        query = select(Job).where(*of_it).order_by(Job.created_at.desc()).limit(MOST_SHOWN)
        rows = [(view(job), ExportPayload.read(job.payload)) for job in session.scalars(query)]
    return [_export(ctx, job, payload) for job, payload in rows]


def get_export(ctx: Context, job_id: str) -> ExportView:
    """Return one export. Raises NotFound."""
    with ctx.db.read() as session:
        job = session.get(Job, job_id)
        if job is None or job.kind != JobKind.EXPORT:
            raise NotFound(f"There is no export {job_id}.")
        return _export(ctx, view(job), ExportPayload.read(job.payload))


def _export(ctx: Context, job: JobView, payload: ExportPayload) -> ExportView:
    pushed = job.result.get("pushed") or {}
    place = ctx.artifacts.path(payload.out)
    there = job.status is Status.FINISHED and place.is_dir()
    files = sorted(path for path in place.rglob("*") if path.is_file()) if there else []
    return ExportView(
        job=job,
        format=payload.format,
        numbers=payload.numbers,
        folder=payload.out if there else None,
        files=tuple(path.relative_to(place).as_posix() for path in files),
        bytes=sum(path.stat().st_size for path in files),
        push=payload.push.repo if payload.push else "",
        pushed_to=str(pushed.get("url") or ""),
    )


def delete_export(ctx: Context, job_id: str, *, person: Person) -> None:
    """Delete what an export wrote here; what was pushed stays on the Hub. Raises Conflict while its job is not over."""
    require_builder(person)
    found = get_export(ctx, job_id)
    if found.job.is_active:
        raise Conflict("This export is still being written.", remedy="Stop it first.")
    if found.folder is not None:
        ctx.artifacts.remove(found.folder)


def export_file(ctx: Context, job_id: str, *, person: Person) -> Path:
    """Return one file for a download: the GGUF file itself, or the folder as a zip file. Raises Conflict if it is not there (any more)."""
    require_builder(person)
    found = get_export(ctx, job_id)
    if found.folder is None:
        raise Conflict("This export is not there.", remedy="Ask for it again.")
    root = ctx.artifacts.path(found.folder)
    if (single := next(root.glob("*.gguf"), None)) is not None:
        return single
    return zip_folder(ctx, root, name=f"export-{job_id}", size=found.bytes)


def check_destination(folder: Path) -> Path:
    """Return the folder an export may be copied to. Raises Conflict if it holds something already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(f"{folder} is there already and not empty.", remedy="Name a folder that does not exist yet.", field="to")
    return folder


def copy_export(ctx: Context, job: JobView, destination: Path) -> Path:
    """Move a finished export to a folder outside the artifacts. Raises Conflict if the folder holds something already."""
    check_destination(destination)
    folder = str(job.result["folder"])
    shutil.copytree(ctx.artifacts.path(folder), destination, dirs_exist_ok=True)
    ctx.artifacts.remove(folder)
    return destination


def file_name(name: str) -> str:
    """Return a name as a file or folder can have it."""
    return re.sub("-{2,}", "-", "".join(c if c.isalnum() or c in "-_." else "-" for c in name))[:80].strip("-.") or "checkpoint"
