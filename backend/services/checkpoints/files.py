"""Record the checkpoints that training writes, and zip them for download."""

from __future__ import annotations

import re
import zipfile
from datetime import timedelta
from pathlib import Path

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from backend.db.base import new_id
from backend.db.tables import Checkpoint, Run
from backend.domain.jobs.events import CheckpointEvent, CheckpointRemovedEvent
from backend.domain.jobs.payloads import TrainPayload
from backend.domain.jobs.results import CheckpointFacts
from backend.domain.training.holds import mark_of_use
from backend.errors import Conflict
from backend.services.checkpoints.checkpoints import free_name, get_checkpoint, retired_name
from backend.services.context import Context, Person, require_builder
from backend.services.dependents import missed_checkpoints
from backend.services.jobs.claims import Claim

KEEP_DOWNLOADS = timedelta(hours=6)


def zip_checkpoint(ctx: Context, checkpoint_id: str, *, person: Person) -> Path:
    """Write a checkpoint's folder to a zip file for a download, without its training state.

    Raises Conflict if the files are gone, Unavailable if the disk is too full, NotAllowed.
    """
    require_builder(person)
    checkpoint = get_checkpoint(ctx, checkpoint_id)
    if not checkpoint.is_ready or checkpoint.folder is None:
        raise Conflict(f"The files of “{checkpoint.name}” are missing.", remedy="Choose another checkpoint.")
    return zip_folder(ctx, ctx.artifacts.path(checkpoint.folder), name=checkpoint.id, size=checkpoint.bytes)


def zip_folder(ctx: Context, root: Path, *, name: str, size: int) -> Path:
    """Write a folder to a zip file for download, without its training state; earlier downloads are removed.

    Weights don't compress, so they are stored as they are. Raises Unavailable if the disk is too full.
    """
    folder = ctx.artifacts.folder("exports", "downloads")
    oldest = (ctx.now() - KEEP_DOWNLOADS).timestamp()
    for earlier in folder.iterdir():
        if earlier.stat().st_mtime < oldest:
            earlier.unlink(missing_ok=True)
    path = folder / f"{name}-{root.stat().st_mtime_ns}.zip"  # a resumed run publishes the same step again
    if path.exists():
        return path
    ctx.artifacts.require_free(size, keep=ctx.policy.keep_free_bytes, purpose="The download")
    partial = folder / f"{name}.{new_id()}.partial"
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            for file in sorted(root.rglob("*")):
                if file.is_file() and "training_state" not in file.relative_to(root).parts:
                    archive.write(file, file.relative_to(root).as_posix())
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def record_checkpoint(session: Session, ctx: Context, claim: Claim[TrainPayload], event: CheckpointEvent) -> None:
    """Write the row of a checkpoint that a run has published. The same step after a resume replaces the earlier row."""
    run = _run_of(session, claim)
    step = event.step
    row = session.scalar(select(Checkpoint).where(Checkpoint.run_id == run.id, Checkpoint.step == step))
    if row is None:
        row = Checkpoint(
            run_id=run.id,
            step=step,
            origin="run",
            name=free_name(session, _made_name(run.name, step)),
            created_at=ctx.now(),
        )
        session.add(row)
    elif row.deleted_at is not None:
        row.deleted_at, row.name = None, free_name(session, _made_name(run.name, step))
    row.parent_id, row.job_id, row.folder = run.base_id, claim.job_id, event.folder
    row.bytes, row.is_adapter = event.bytes, event.adapter
    if event.final:  # a finished run resumed with more steps has a new last step
        session.execute(
            update(Checkpoint).where(Checkpoint.run_id == run.id, Checkpoint.is_final).values(is_final=False)
        )
        row.is_final = True
    row.metrics = event.metrics
    row.family = event.family or row.family or "llama"
    row.parameters = event.parameters or row.parameters
    row.facts = CheckpointFacts.model_validate(row.facts.dump() | event.facts)
    session.flush()


def record_checkpoint_removed(
    session: Session, ctx: Context, claim: Claim[TrainPayload], event: CheckpointRemovedEvent
) -> None:
    """Record that a run removed an older checkpoint's files, keeping the best, the last and those in use."""
    run = _run_of(session, claim)
    row = session.scalar(select(Checkpoint).where(Checkpoint.run_id == run.id, Checkpoint.step == event.step))
    if row is not None and row.deleted_at is None:
        row.deleted_at, row.name = ctx.now(), retired_name(session, row)


def mark_used_checkpoints(ctx: Context, job_id: str) -> None:
    """Mark which checkpoints of a job's run are in use, for its process on this machine, which removes older ones.

    In use is what would be missed: also one that a person has named, described or evaluated, apart from the suites that
    the run starts at each checkpoint.
    """
    with ctx.db.read() as session:
        of_job = (Run.job_id == job_id, Checkpoint.deleted_at.is_(None), Checkpoint.folder.is_not(None))
        query = select(Checkpoint, Run.name).join(Run, Run.id == Checkpoint.run_id).where(*of_job)
        rows = session.execute(query).all()
        used = missed_checkpoints(session, [row.id for row, _ in rows])
        used |= {row.id for row, run in rows if row.notes or not _has_made_name(row, run)}
    for row, _ in rows:
        folder = ctx.artifacts.root / str(row.folder)
        mark = mark_of_use(folder)
        if row.id not in used:
            mark.unlink(missing_ok=True)
        elif folder.is_dir() and not mark.exists():
            mark.touch()


def rename_checkpoints(session: Session, run: Run, *, before: str) -> None:
    """Give the checkpoints of a renamed run its new name; one that a person has named keeps its name. `before` is the
    run's earlier name.
    """
    for row in session.scalars(select(Checkpoint).where(Checkpoint.run_id == run.id, Checkpoint.deleted_at.is_(None))):
        if _has_made_name(row, before):
            row.name = free_name(session, _made_name(run.name, row.step))


def checkpoint_folders(ctx: Context, job_id: str) -> list[str]:
    """Return the folders of the checkpoints of a job's run that were not removed, by step."""
    with ctx.db.read() as session:
        of_job = (Run.job_id == job_id, Checkpoint.deleted_at.is_(None), Checkpoint.folder.is_not(None))
        query = select(Checkpoint.folder).join(Run, Run.id == Checkpoint.run_id).where(*of_job)
        return [str(folder) for folder in session.scalars(query.order_by(Checkpoint.step))]


def _run_of(session: Session, claim: Claim[TrainPayload]) -> Run:
    return session.scalars(select(Run).where(Run.job_id == claim.job_id)).one()


def _has_made_name(row: Checkpoint, run: str) -> bool:
    """Return whether a checkpoint has the name that its run gave it, which a number may follow."""
    return re.fullmatch(re.escape(_made_name(run, row.step)) + r"( \(\d+\))?", row.name) is not None


def _made_name(run: str, step: int | None) -> str:
    return f"{run} · step {step}"[:150]
