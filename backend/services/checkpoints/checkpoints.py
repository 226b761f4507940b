"""List, resolve, rename and delete checkpoints of runs and added bases, and read their lineage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Alias, Checkpoint, Dataset, DatasetVersion, Job, Run
from backend.domain.attributes import view_of
from backend.domain.jobs.events import Values
from backend.domain.jobs.results import CheckpointFacts
from backend.domain.jobs.states import ACTIVE
from backend.domain.names import not_found
from backend.domain.serving.prepared import prepared_folder
from backend.domain.serving.upstream import UPSTREAM
from backend.domain.training.objectives import writes_text
from backend.errors import Conflict, InvalidInput
from backend.services.context import Context, Person, require_builder
from backend.services.dependents import losses_of_checkpoint, refuse_while_used, users_of_checkpoint
from backend.services.jobs.jobs import JobState, job_state
from backend.services.naming import rename, replace_notes

MAX_LINEAGE = 50


@dataclass(frozen=True, kw_only=True)
class CheckpointView(JobState):
    """A checkpoint. `status` is its job's for a base being added, else finished. `dataset` as `name@version`."""

    id: str
    name: str
    origin: str
    job_id: str | None
    run_id: str | None
    run: str | None
    objective: str | None
    step: int | None
    dataset_id: str | None
    dataset: str | None
    parent_id: str | None
    parent: str | None
    folder: str | None
    source: str
    family: str
    parameters: int | None
    is_adapter: bool
    is_final: bool
    bytes: int
    metrics: Values
    facts: CheckpointFacts
    notes: str
    created_at: datetime
    archived_at: datetime | None
    deleted_at: datetime | None

    @property
    def is_ready(self) -> bool:
        """Return whether its files exist."""
        return self.folder is not None and self.deleted_at is None

    @property
    def writes(self) -> bool:
        """Return whether it generates text; a reward model only scores it."""
        return writes_text(self.objective)


@dataclass(frozen=True)
class CheckpointFile:
    """One file of a checkpoint's folder."""

    name: str
    bytes: int


def list_checkpoints(
    ctx: Context, *, run_id: str | None = None, origin: str | None = None, archived: bool = False, ready: bool = False
) -> list[CheckpointView]:
    """Return checkpoints that are not deleted, newest first; `ready` leaves out bases that are still being downloaded.
    Models on other servers are left out unless `origin` asks for them.
    """
    with ctx.db.read() as session:
        query = (
            select(Checkpoint)
            .where(Checkpoint.deleted_at.is_(None))
            .order_by(Checkpoint.created_at.desc(), Checkpoint.step.desc())
        )
        query = query.where(Checkpoint.archived_at.is_not(None) if archived else Checkpoint.archived_at.is_(None))
        if run_id:
            query = query.where(Checkpoint.run_id == run_id)
        query = query.where(Checkpoint.origin == origin if origin else Checkpoint.origin != UPSTREAM)
        if ready:
            query = query.where(Checkpoint.folder.is_not(None))
        return _views(session, session.scalars(query).all())


def get_checkpoint(ctx: Context, checkpoint_id: str) -> CheckpointView:
    """Return a checkpoint by id, deleted ones included. Raises NotFound."""
    with ctx.db.read() as session:
        row = session.get(Checkpoint, checkpoint_id)
        if row is None:
            raise not_found("checkpoint", checkpoint_id, [], remedy="The Checkpoints page lists all checkpoints.")
        return _view(session, row)


def resolve_checkpoint(ctx: Context, name_or_id: str) -> CheckpointView:
    """Return the usable checkpoint of an id or a name; a run's name or id selects its newest, an alias the one that
    holds it.

    Raises NotFound with similar names, or Conflict if its files are not ready or deleted.
    """
    with ctx.db.read() as session:
        row = session.get(Checkpoint, name_or_id) or session.scalar(
            select(Checkpoint).where(Checkpoint.name == name_or_id)
        )
        row = row or _newest_of_run(session, name_or_id) or _holder_of_alias(session, name_or_id)
        if row is None:
            names = session.scalars(
                select(Checkpoint.name).where(Checkpoint.deleted_at.is_(None), Checkpoint.archived_at.is_(None))
            )
            raise not_found("checkpoint", name_or_id, names, remedy="Train one, or add a base on the Checkpoints page.")
        checkpoint = _view(session, row)
    if checkpoint.deleted_at is not None:
        raise Conflict(
            f"The files of “{checkpoint.name}” were deleted.", remedy="Choose another checkpoint.", field="checkpoint"
        )
    if checkpoint.origin == UPSTREAM:
        raise Conflict(
            f"“{checkpoint.name}” is a model on another server, without files here.",
            remedy="Choose a checkpoint.",
            field="checkpoint",
        )
    if not checkpoint.is_ready:
        cause = checkpoint.error.cause or "its files are still being read"
        raise Conflict(
            f"“{checkpoint.name}” is not ready: {cause}",
            remedy="Wait for its job, or add it again.",
            field="checkpoint",
        )
    return checkpoint


def is_reward_model(session: Session, checkpoint_id: str) -> bool:
    """Return whether a checkpoint is of a run with objective reward."""
    query = select(Run.objective).join(Checkpoint, Run.id == Checkpoint.run_id).where(Checkpoint.id == checkpoint_id)
    return not writes_text(session.scalar(query))


def require_writer(session: Session, checkpoint_id: str, *, field: str = "checkpoint") -> None:
    """Raise InvalidInput for a reward model, which can't generate text."""
    if is_reward_model(session, checkpoint_id):
        name = session.get_one(Checkpoint, checkpoint_id).name
        raise InvalidInput(
            f"“{name}” is a reward model: it scores answers and writes none.",
            remedy="Choose a checkpoint of another objective; its val_accuracy is on its page.",
            field=field,
        )


def list_lineage(ctx: Context, checkpoint_id: str) -> list[CheckpointView]:
    """Return the chain from the first ancestor to the checkpoint itself."""
    chain: list[Checkpoint] = []
    with ctx.db.read() as session:
        current: str | None = checkpoint_id
        while current is not None and len(chain) < MAX_LINEAGE and current not in {c.id for c in chain}:
            row = session.get(Checkpoint, current)
            if row is None:
                break
            chain.append(row)
            current = row.parent_id
        return _views(session, chain[::-1])


def list_children(ctx: Context, checkpoint_id: str) -> list[CheckpointView]:
    """Return the checkpoints that runs made from this one, newest first."""
    with ctx.db.read() as session:
        query = select(Checkpoint).where(Checkpoint.parent_id == checkpoint_id, Checkpoint.deleted_at.is_(None))
        return _views(
            session, session.scalars(query.order_by(Checkpoint.created_at.desc(), Checkpoint.step.desc())).all()
        )


def list_checkpoint_users(ctx: Context, checkpoint_id: str) -> list[str]:
    """Return the users of the checkpoint's files, one sentence each."""
    with ctx.db.read() as session:
        return users_of_checkpoint(session, checkpoint_id)


def list_deletion_losses(ctx: Context, checkpoint_id: str) -> list[str]:
    """Return what ended runs lose with the checkpoint's files, one sentence each."""
    with ctx.db.read() as session:
        return losses_of_checkpoint(session, checkpoint_id)


def list_files(ctx: Context, checkpoint_id: str) -> list[CheckpointFile]:
    """Return the files of a checkpoint's folder by name; empty if they were deleted."""
    checkpoint = get_checkpoint(ctx, checkpoint_id)
    if not checkpoint.is_ready or checkpoint.folder is None:
        return []
    return [CheckpointFile(name, size) for name, size in ctx.artifacts.sizes(checkpoint.folder).items()]


def rename_checkpoint(ctx: Context, checkpoint_id: str, name: str, *, person: Person) -> None:
    """Give a checkpoint another name. Raises Conflict if it is taken."""
    require_builder(person)
    with ctx.db.write() as session:
        rename(session, _existing(session, checkpoint_id), name, what="a checkpoint", limit=160)


def set_checkpoint_notes(
    ctx: Context, checkpoint_id: str, notes: str, *, person: Person, before: str | None = None
) -> None:
    """Replace a checkpoint's notes: see `replace_notes`."""
    require_builder(person)
    with ctx.db.write() as session:
        replace_notes(session, _existing(session, checkpoint_id), notes, before=before)


def archive_checkpoint(ctx: Context, checkpoint_id: str, *, person: Person, archived: bool = True) -> None:
    """Archive a checkpoint, or restore it. Its files stay."""
    require_builder(person)
    with ctx.db.write() as session:
        _existing(session, checkpoint_id).archived_at = ctx.now() if archived else None


def delete_checkpoint(ctx: Context, checkpoint_id: str, *, person: Person) -> None:
    """Delete a checkpoint's files; its row stays, so that descendants keep their lineage.

    Raises Conflict, naming the users, while anything needs the files.
    """
    require_builder(person)
    with ctx.db.write() as session:
        row = _existing(session, checkpoint_id)
        refuse_while_used(
            "checkpoint",
            row.name,
            users_of_checkpoint(session, row.id),
            remedy="Stop those first, or archive the checkpoint instead.",
        )
        job = session.get(Job, row.job_id) if row.job_id else None
        if row.folder is None and job is not None and job.status in ACTIVE:
            raise Conflict(f"“{row.name}” is being added.", remedy="Wait for its job, or stop it first.")
        row.deleted_at, row.name = ctx.now(), retired_name(session, row)
        folder = row.folder
    if folder:
        ctx.artifacts.remove(folder)
        ctx.artifacts.remove(prepared_folder(folder))


def retired_name(session: Session, row: Checkpoint) -> str:
    """Return the name of a deleted checkpoint, so that its old name is free."""
    return free_name(session, f"{row.name[:130]} (deleted)")


def free_name(session: Session, preferred: str) -> str:
    """Return an unused checkpoint name: two runs may have the same name."""
    name, number = preferred, 2
    while session.scalar(select(Checkpoint.id).where(Checkpoint.name == name)) is not None:
        name, number = f"{preferred} ({number})", number + 1
    return name


def _existing(session: Session, checkpoint_id: str) -> Checkpoint:
    row = session.get(Checkpoint, checkpoint_id)
    if row is None or row.deleted_at is not None:
        names = session.scalars(select(Checkpoint.name).where(Checkpoint.deleted_at.is_(None)))
        raise not_found("checkpoint", checkpoint_id, names, remedy="It may have been deleted.")
    return row


def _holder_of_alias(session: Session, name: str) -> Checkpoint | None:
    return session.scalar(
        select(Checkpoint).join(Alias, Alias.checkpoint_id == Checkpoint.id).where(Alias.name == name)
    )


def _newest_of_run(session: Session, name_or_id: str) -> Checkpoint | None:
    """Return the newest checkpoint of the run with that id, or of the newest run with that name that has one."""
    return session.scalar(
        select(Checkpoint)
        .join(Run, Run.id == Checkpoint.run_id)
        .where((Run.id == name_or_id) | (Run.name == name_or_id), Checkpoint.deleted_at.is_(None))
        .order_by(Run.created_at.desc(), Checkpoint.step.desc())
        .limit(1)
    )


def _view(session: Session, row: Checkpoint) -> CheckpointView:
    return _views(session, [row])[0]


def _views(session: Session, rows: Sequence[Checkpoint]) -> list[CheckpointView]:
    """Copy rows into views, reading what they refer to in one query: lists grow to thousands."""
    runs = {
        run.id: run
        for run in session.scalars(select(Run).where(Run.id.in_({row.run_id for row in rows if row.run_id})))
    }
    added = {row.job_id for row in rows if row.job_id and row.origin == "added"}
    jobs = {job.id: job for job in session.scalars(select(Job).where(Job.id.in_(added)))}
    versions = {run.dataset_version_id for run in runs.values() if run.dataset_version_id}
    query = (
        select(DatasetVersion.id, Dataset.id, Dataset.name, DatasetVersion.number)
        .join(Dataset)
        .where(DatasetVersion.id.in_(versions))
    )
    datasets = {version: (dataset, f"{name}@{number}") for version, dataset, name, number in session.execute(query)}
    parents = select(Checkpoint.id, Checkpoint.name).where(
        Checkpoint.id.in_({row.parent_id for row in rows if row.parent_id})
    )
    names = dict(session.execute(parents).all())
    views = []
    for row in rows:
        run, job = runs.get(row.run_id or ""), jobs.get(row.job_id or "")
        dataset_id, dataset = datasets.get((run.dataset_version_id if run else None) or "", (None, None))
        views.append(
            view_of(
                CheckpointView,
                row,
                **job_state(job, is_made=bool(row.folder)),
                run=run.name if run else None,
                objective=run.objective if run else None,
                dataset_id=dataset_id,
                dataset=dataset,
                parent=names.get(row.parent_id or ""),
            )
        )
    return views
