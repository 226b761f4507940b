"""Datasets: named collections of immutable versions. An import is a job; its result fills the version."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from backend.db.tables import Analysis, Dataset, DatasetVersion, Job
from backend.domain.data.versions.provenance import DerivedProvenance
from backend.domain.jobs.states import ACTIVE
from backend.errors import Conflict
from backend.services.context import Context, Person, require_builder
from backend.services.data.tokens import remove_tokens_of
from backend.services.data.views import (
    DatasetView,
    VersionView,
    dataset_views,
    find_dataset,
    pick_version,
    version_job,
    version_view,
)
from backend.services.dependents import refuse_while_used, users_of_dataset
from backend.services.naming import rename, replace_notes


def list_datasets(
    ctx: Context, *, kinds: tuple[str, ...] = (), archived: bool = False, ready: bool = False
) -> list[DatasetView]:
    """Return datasets, newest first. `kinds` and `ready` narrow the list to what a form can offer."""
    with ctx.db.read() as session:
        query = select(Dataset).order_by(Dataset.created_at.desc(), Dataset.name)
        query = query.where(Dataset.archived_at.is_not(None) if archived else Dataset.archived_at.is_(None))
        if kinds:
            query = query.where(Dataset.kind.in_(kinds))
        views = dataset_views(session, session.scalars(query).all())
    return [view for view in views if not ready or (view.newest is not None and view.newest.is_ready)]


def get_dataset(ctx: Context, name_or_id: str) -> DatasetView:
    """Return a dataset by name or id. Raises NotFound with similar names."""
    with ctx.db.read() as session:
        return dataset_views(session, [find_dataset(session, name_or_id)])[0]


def resolve_version(ctx: Context, reference: str, *, ready: bool = True) -> VersionView:
    """Return the version of `name`, `name@3` or a version's id; without a number the newest with rows.

    Raises NotFound, or Conflict if its import has failed or, unless `ready=False`, is not done yet.
    """
    with ctx.db.read() as session:
        row = session.get(DatasetVersion, reference)
        if row is not None:
            version = version_view(row, session.get_one(Dataset, row.dataset_id), version_job(session, row))
        else:
            name, _, number = reference.partition("@")
            view = dataset_views(session, [find_dataset(session, name.strip())])[0]
            version = pick_version(view, number)
    if not version.is_ready and not version.is_importing:
        cause = version.error.cause or "it was stopped"
        again = "Derive it again." if isinstance(version.provenance, DerivedProvenance) else "Import it again."
        raise Conflict(f"The import of {version.label} did not finish: {cause}", remedy=again, field="dataset")
    if ready and not version.is_ready:
        raise Conflict(
            f"{version.label} is still being imported.", remedy="Wait until its import has finished.", field="dataset"
        )
    return version


def rename_dataset(ctx: Context, dataset_id: str, name: str, *, person: Person) -> None:
    """Give a dataset another name. Raises Conflict if it is taken."""
    require_builder(person)
    with ctx.db.write() as session:
        rename(session, find_dataset(session, dataset_id), name, what="a dataset")


def set_dataset_notes(ctx: Context, dataset_id: str, notes: str, *, person: Person, before: str | None = None) -> None:
    """Replace a dataset's notes: see `replace_notes`."""
    require_builder(person)
    with ctx.db.write() as session:
        replace_notes(session, find_dataset(session, dataset_id), notes, before=before)


def archive_dataset(ctx: Context, dataset_id: str, *, person: Person, archived: bool = True) -> None:
    """Archive a dataset, or restore it. Nothing is deleted."""
    require_builder(person)
    with ctx.db.write() as session:
        find_dataset(session, dataset_id).archived_at = ctx.now() if archived else None


def delete_dataset(ctx: Context, dataset_id: str, *, person: Person, with_reports: bool = False) -> None:
    """Delete a dataset with its files, and with the reports about it if asked to.

    Raises Conflict, naming the users, while anything refers to it.
    """
    require_builder(person)
    with ctx.db.write() as session:
        dataset = find_dataset(session, dataset_id)
        ids = list(session.scalars(select(DatasetVersion.id).where(DatasetVersion.dataset_id == dataset.id)))
        reports = remove_reports(session, ids) if with_reports else []
        refuse_while_used(
            "dataset", dataset.name, users_of_dataset(session, dataset.id), remedy="Archive it: that keeps the history."
        )
        versions = list(session.scalars(select(DatasetVersion).where(DatasetVersion.dataset_id == dataset.id)))
        for version in versions:
            job = version_job(session, version)
            if job is not None and version.folder is None and job.status in ACTIVE:
                raise Conflict(f"“{dataset.name}” is being imported.", remedy="Wait for the import, or stop it first.")
        folders = {version.folder for version in versions if version.folder}
        hashes = [version.content_hash for version in versions if version.content_hash]
        session.execute(update(DatasetVersion).where(DatasetVersion.id.in_(ids)).values(parent_id=None))
        for version in versions:
            session.delete(version)
        session.flush()
        session.delete(dataset)
        still_used = set(session.scalars(select(DatasetVersion.folder).where(DatasetVersion.folder.in_(folders))))
    for folder in [*(folders - still_used), *reports]:
        ctx.artifacts.remove(folder)
    remove_tokens_of(ctx, hashes)


def remove_reports(session: Session, ids: Sequence[str]) -> list[str]:
    """Delete the finished reports about some versions; return their folders, for deletion."""
    query = select(Analysis).outerjoin(Job, Job.id == Analysis.job_id).where(Analysis.dataset_version_id.in_(ids))
    rows = session.scalars(query.where(or_(Job.id.is_(None), Job.status.not_in(ACTIVE)))).all()
    for row in rows:
        session.delete(row)
    session.flush()
    return [row.folder for row in rows if row.folder]
