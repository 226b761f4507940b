"""Derive versions from others, read their lineage and users, delete them. A version itself never changes."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from backend.db.engine import retry_races
from backend.db.tables import Dataset, DatasetVersion, Job
from backend.domain.data.kinds import DatasetKind
from backend.domain.data.versions.changes import Change, DropRows, Merge
from backend.domain.data.versions.conditions import check_change, describe_change
from backend.domain.data.versions.provenance import DerivedProvenance, Provenance, VotesProvenance
from backend.domain.jobs.payloads import Derivation, ImportPayload, require_folder
from backend.domain.jobs.results import VersionFacts
from backend.domain.jobs.states import ACTIVE
from backend.domain.names import clean_name
from backend.errors import Conflict, InvalidInput
from backend.services.context import Context, Person, require_builder
from backend.services.data.datasets import remove_reports, resolve_version
from backend.services.data.imports import version_of_job
from backend.services.data.tokens import remove_tokens_of
from backend.services.data.views import VersionView, version_job, version_view
from backend.services.dependents import Use, refuse_while_used, users_of_dataset, users_of_versions
from backend.services.jobs.jobs import add_job, wake
from backend.services.lookups import find_row


@retry_races
def derive_version(
    ctx: Context,
    version_id: str,
    *,
    change: Change,
    person: Person,
    name: str | None = None,
    idempotency_key: str | None = None,
) -> VersionView:
    """Queue a new version derived from `version_id` (or `name@3`) by a change. It belongs to the same dataset, or to a
    new one called `name`, and records its parent (`parent_id`) and the change (`provenance`). A change without effect
    makes no version; its job's result names the old one. The same `idempotency_key` gives the same version. Raises
    InvalidInput for a change that does not fit the kind, Conflict for a version that is not ready or a name that is
    taken, NotAllowed.
    """
    require_builder(person)
    parent = resolve_version(ctx, version_id)
    check_change(change, kind=DatasetKind(parent.kind))
    other = _other(ctx, parent, change) if isinstance(change, Merge) else None
    folder = require_folder(parent.folder, what="version")
    derivation = Derivation(folder=folder, other=other.folder if other else None, change=change)
    payload = ImportPayload(derive=derivation, kind=DatasetKind(parent.kind))
    with ctx.db.write() as session:
        if (known := _job_of_key(session, idempotency_key)) is not None:
            return version_of_job(ctx, known)
        try:
            dataset = _target(session, ctx, parent, name=name, person=person)
        except Conflict:
            # stored between the two looks (PostgreSQL)
            if (known := _job_of_key(session, idempotency_key)) is not None:
                return version_of_job(ctx, known)
            raise
        job = add_job(
            session,
            ctx,
            payload,
            title=f"Change {parent.label}",
            device="cpu",
            priority=3,
            idempotency_key=idempotency_key,
            created_by=person.id,
        )
        taken = (
            session.scalar(select(func.max(DatasetVersion.number)).where(DatasetVersion.dataset_id == dataset.id)) or 0
        )
        version = DatasetVersion(
            dataset_id=dataset.id,
            number=taken + 1,
            job_id=job.id,
            parent_id=parent.id,
            source=f"made from {parent.label}"[:400],
            provenance=_provenance(parent, change, other=other, person=person),
            facts=VersionFacts(**parent.facts.model_dump(include={"card"}, exclude_unset=True)),
            created_at=ctx.now(),
        )
        session.add(version)
        session.flush()
        result = version_view(version, dataset, job)
    wake(ctx, "cpu")
    return result


def _other(ctx: Context, parent: VersionView, change: Merge) -> VersionView:
    other = resolve_version(ctx, change.other)
    if other.kind != parent.kind:
        raise InvalidInput(
            f"{other.label} holds rows of kind {other.kind}, and {parent.label} of kind {parent.kind}.",
            remedy=f"Choose a version of kind {parent.kind}.",
            field="other",
        )
    if other.id == parent.id:
        raise InvalidInput(
            f"{parent.label} can't be merged with itself.", remedy="Choose another version.", field="other"
        )
    return other


def _job_of_key(session: Session, key: str | None) -> str | None:
    return session.scalar(select(Job.id).where(Job.idempotency_key == key)) if key else None


def _target(session: Session, ctx: Context, parent: VersionView, *, name: str | None, person: Person) -> Dataset:
    if name is None:
        return session.get_one(Dataset, parent.dataset_id)
    name = clean_name(name, what="A dataset")
    if session.scalar(select(Dataset.id).where(Dataset.name == name)):
        raise Conflict(f"There is already a dataset “{name}”.", remedy="Choose another name.", field="name")
    dataset = Dataset(name=name, kind=parent.kind, created_by=person.id, created_at=ctx.now())
    session.add(dataset)
    session.flush()
    return dataset


def _provenance(parent: VersionView, change: Change, *, other: VersionView | None, person: Person) -> Provenance:
    """Return the provenance of a derived version: its parent, the change, and a sentence."""
    data = change.model_dump(mode="json")
    if isinstance(change, DropRows):
        data |= {"train": len(set(change.train)), "val": len(set(change.val))}
    merged = {"with_": other.label, "with_id": other.id} if other else {}
    if isinstance(change, Merge) and other:
        change = change.model_copy(update={"other": other.label})
    return DerivedProvenance(
        version=parent.label,
        version_id=parent.id,
        change=data,
        said=describe_change(change),
        by=person.name,
        **merged,
    )


def delete_version(ctx: Context, version_id: str, *, person: Person, with_reports: bool = False) -> None:
    """Delete one version with its files, and with the reports about it if asked to. Its number is not reused while
    newer versions exist.

    Raises Conflict, naming the users, while anything refers to it, or while it is being made.
    """
    require_builder(person)
    with ctx.db.write() as session:
        remedy = "It may have been deleted already."
        version = find_row(session, DatasetVersion, version_id, what="version", remedy=remedy)
        label = f"{session.get_one(Dataset, version.dataset_id).name}@{version.number}"
        job = version_job(session, version)
        if job is not None and version.folder is None and job.status in ACTIVE:
            raise Conflict(f"{label} is being made.", remedy="Wait for it, or stop it first.")
        reports = remove_reports(session, [version.id]) if with_reports else []
        refuse_while_used(
            "version",
            label,
            users_of_versions(session, [version.id]),
            remedy="Keep it: a version takes only disk space.",
        )
        folder, content_hash = version.folder, version.content_hash
        # failed versions may have it as their parent
        session.execute(update(DatasetVersion).where(DatasetVersion.parent_id == version.id).values(parent_id=None))
        session.delete(version)
        session.flush()
        shared = folder and session.scalar(select(DatasetVersion.id).where(DatasetVersion.folder == folder).limit(1))
    for path in [*reports, *([folder] if folder and not shared else [])]:
        ctx.artifacts.remove(path)
    if content_hash:
        remove_tokens_of(ctx, [content_hash])


def list_dataset_users(ctx: Context, dataset_id: str, *, version_id: str | None = None) -> list[Use]:
    """Return the users of a dataset, or of one version: the reasons why it can't be deleted."""
    with ctx.db.read() as session:
        return users_of_versions(session, [version_id]) if version_id else users_of_dataset(session, dataset_id)


@dataclass(frozen=True)
class Ancestor:
    """One version in a lineage. `parents` are ids of versions; `said` is how it came from them, or its source."""

    id: str
    dataset_id: str
    label: str
    rows: int
    said: str
    parents: tuple[str, ...]
    is_ready: bool
    is_own: bool


def version_lineage(ctx: Context, dataset_id: str) -> list[Ancestor]:
    """Return a dataset's versions, their ancestors, and other datasets' derived directly from them; parents first."""
    with ctx.db.read() as session:
        rows = {
            row.id: row
            for row in session.scalars(select(DatasetVersion).where(DatasetVersion.dataset_id == dataset_id))
        }
        children = session.scalars(
            select(DatasetVersion).where(
                DatasetVersion.parent_id.in_(list(rows)), DatasetVersion.dataset_id != dataset_id
            )
        )
        waiting = [parent for row in rows.values() for parent in _parents(row)]
        rows |= {child.id: child for child in children}
        while waiting:
            row = session.get(DatasetVersion, waiting.pop())
            if row is not None and row.id not in rows:
                rows[row.id] = row
                waiting += _parents(row)
        names = {row.id: session.get_one(Dataset, row.dataset_id).name for row in rows.values()}
        ordered = sorted(rows.values(), key=lambda row: (row.created_at, row.number))
        return [
            Ancestor(
                id=row.id,
                dataset_id=row.dataset_id,
                label=f"{names[row.id]}@{row.number}",
                rows=row.rows,
                said=origin_of(row.provenance, row.source),
                parents=tuple(parent for parent in _parents(row) if parent in rows),
                is_ready=row.folder is not None,
                is_own=row.dataset_id == dataset_id,
            )
            for row in ordered
        ]


def _parents(row: DatasetVersion) -> list[str]:
    return [parent for parent in (row.parent_id, merged_id(row.provenance)) if parent]


def merged_id(provenance: Provenance) -> str | None:
    """Return the version that was merged into a derived one."""
    return provenance.with_id if isinstance(provenance, DerivedProvenance) else None


def origin_of(provenance: Provenance, source: str) -> str:
    """Describe how a version was made: by a change, from votes, or from a file or Hub dataset."""
    if isinstance(provenance, DerivedProvenance):
        return provenance.said
    if isinstance(provenance, VotesProvenance):
        return f"votes of campaign “{provenance.campaign}”"
    return f"imported from {source}" if source else "made here"
