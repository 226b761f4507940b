"""Imports: queue the job that makes a dataset version, record its result, and repeat an import with changes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.db.base import new_id
from backend.db.engine import retry_races
from backend.db.tables import Dataset, DatasetVersion, Job
from backend.domain.attributes import view_of
from backend.domain.data.import_options import HERE, ImportOptions
from backend.domain.data.kinds import KINDS, DatasetKind
from backend.domain.data.versions.provenance import Provenance
from backend.domain.jobs.payloads import ImportPayload, ShardCluster
from backend.domain.jobs.placement import parse_placement
from backend.domain.jobs.results import ImportResult, VersionFacts
from backend.domain.jobs.states import Status
from backend.domain.names import clean_name
from backend.errors import Conflict, InvalidInput, NotFound
from backend.infra.compute.slurm import Slurm
from backend.infra.files.encoding import check_encoding
from backend.services.context import Context, Person, require_builder
from backend.services.data.sources import ImportSource, name_source, source_fields, source_of_payload
from backend.services.data.views import VersionView, version_job, version_view
from backend.services.dependents import users_of_versions
from backend.services.jobs.claims import Claim
from backend.services.jobs.jobs import add_job, wake
from backend.services.jobs.placements import check_partition
from backend.services.tokenizers.tokenizers import get_tokenizer, list_tokenizers


@retry_races
def import_dataset(
    ctx: Context,
    *,
    name: str,
    source: ImportSource,
    options: ImportOptions,
    person: Person,
    idempotency_key: str | None = None,
    provenance: Provenance | None = None,
) -> VersionView:
    """Queue the import of one source as a new version of a dataset, creating the dataset if needed.

    The same `idempotency_key` gives the same version. Raises InvalidInput, NotFound, NotAllowed, and Conflict if the
    name belongs to another kind.
    """
    require_builder(person)
    name = clean_name(name, what="A dataset")
    if options.kind is None:
        raise InvalidInput("The import has no kind.", remedy=f"Choose one of {', '.join(KINDS)}.", field="kind")
    if options.encoding:
        check_encoding(options.encoding)
    if options.shards and options.executor != HERE:
        _check_executor(ctx, options.executor)
    if idempotency_key and (again := _version_of_key(ctx, idempotency_key)) is not None:
        return again
    payload = ImportPayload(
        **{**dict(options), "tokenizer": _tokenizer_folder(ctx, options)},
        **source_fields(ctx, source, person=person),
        keep_free_bytes=ctx.policy.keep_free_bytes,
    )
    with ctx.db.write() as session:
        if idempotency_key and (job_id := session.scalar(select(Job.id).where(Job.idempotency_key == idempotency_key))):
            return version_of_job(ctx, job_id)  # the other request of a double click was faster
        dataset = _dataset_for_import(session, ctx, name=name, kind=options.kind, person=person)
        title, key = f"Import {name}", idempotency_key
        job = add_job(
            session, ctx, payload, title=title, device="cpu", priority=3, idempotency_key=key, created_by=person.id
        )
        version = _add_version(
            session,
            ctx,
            dataset,
            job,
            source=name_source(ctx, source),
            mapping=options.mapping,
            provenance=provenance or Provenance(),
        )
        result = version_view(version, dataset, job)
    wake(ctx, "cpu")
    return result


def _tokenizer_folder(ctx: Context, options: ImportOptions) -> str | None:
    """Return the folder of the tokenizer whose tokens an import makes."""
    if options.tokenizer is None:
        return None
    if not options.shards or options.kind != "text":
        raise InvalidInput(
            "Tokens are made by imports of text in shards.",
            remedy="Set the number of shards, or leave the tokenizer empty.",
            field="tokenizer",
        )
    known = (each for each in list_tokenizers(ctx) if each.folder == options.tokenizer)  # when an import is repeated
    tokenizer = next(known, None) or get_tokenizer(ctx, options.tokenizer)
    if tokenizer.folder is None:
        raise InvalidInput(f"The tokenizer {tokenizer.name} is not trained yet.", field="tokenizer")
    return tokenizer.folder


def _check_executor(ctx: Context, text: str) -> None:
    try:
        placement = parse_placement(text)
    except InvalidInput as error:
        raise InvalidInput(
            f"Shards can't run on {text!r}.", remedy="Give local, or slurm:PARTITION.", field="executor"
        ) from error
    if placement.provider != Slurm.name:
        raise InvalidInput(
            f"Shards can't run on {placement.title}.", remedy="Give local, or slurm:PARTITION.", field="executor"
        )
    check_partition(ctx, placement)


def fill_cluster(ctx: Context, payload: ImportPayload, *, job_id: str) -> ImportPayload:
    """Return the payload of an import's job with the settings of the Slurm cluster that its shards are submitted to,
    which the worker that takes it must have. Raises InvalidInput.
    """
    if not payload.shards or payload.executor == HERE:
        return payload
    slurm = next((provider for provider in ctx.providers if isinstance(provider, Slurm)), None)
    if slurm is None:
        raise InvalidInput(
            "The worker that took this import is not set up for Slurm.",
            remedy="Set ROUNDHOUSE_SLURM_PARTITIONS for all workers that take imports (docs/slurm.md).",
            field="executor",
        )
    cluster = ShardCluster(job_id=job_id, account=slurm.account, options=slurm.options)
    return payload.model_copy(update={"cluster": cluster})


def _add_version(
    session: Session,
    ctx: Context,
    dataset: Dataset,
    job: Job,
    *,
    source: str,
    mapping: dict[str, str],
    provenance: Provenance,
) -> DatasetVersion:
    newest = session.scalar(select(func.max(DatasetVersion.number)).where(DatasetVersion.dataset_id == dataset.id)) or 0
    version = DatasetVersion(
        dataset_id=dataset.id,
        number=newest + 1,
        job_id=job.id,
        source=source[:400],
        mapping=mapping,
        provenance=provenance,
        created_at=ctx.now(),
    )
    session.add(version)
    session.flush()
    return version


def add_rows_dataset(
    ctx: Context,
    *,
    name: str,
    kind: str,
    rows: Sequence[dict[str, object]],
    provenance: Provenance | None = None,
    person: Person,
    idempotency_key: str | None = None,
) -> VersionView:
    """Queue the import of rows made here, such as a preference set from votes, like any other import."""
    if not rows:
        raise InvalidInput("There are no rows to make a dataset of.")
    folder = ctx.artifacts.folder("uploads", new_id())
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return import_dataset(
        ctx,
        name=name,
        source=ImportSource(upload=ctx.artifacts.relative(path)),
        options=ImportOptions(kind=DatasetKind(kind), max_rejected=1),
        provenance=provenance,
        person=person,
        idempotency_key=idempotency_key,
    )


def version_of_job(ctx: Context, job_id: str) -> VersionView:
    """Return the version that an import makes, or the existing version with the same content (`reused`)."""
    with ctx.db.read() as session:
        job = session.get(Job, job_id)
        version = session.scalar(select(DatasetVersion).where(DatasetVersion.job_id == job_id))
        reused = version is None
        if version is None and job is not None:
            result = ImportResult.model_validate(job.result) if job.result else None
            version = session.get(DatasetVersion, (result.version_id if result else None) or "")
        if version is None:
            raise NotFound("There is no such import.", remedy="It may have been removed; import the file again.")
        own = job if not reused else version_job(session, version)
        view = version_view(version, session.get_one(Dataset, version.dataset_id), own)
    return VersionView(**{**view.__dict__, "reused": reused})


def record_import(session: Session, ctx: Context, claim: Claim[ImportPayload], result: ImportResult) -> ImportResult:
    """Fill in the version from the import's result. Content that another version of the dataset already has makes no
    new version: the row is deleted and the job's result names the old one (`version_id`, `version`, `reused`).
    """
    version = session.scalars(select(DatasetVersion).where(DatasetVersion.job_id == claim.job_id)).one()
    if not ctx.artifacts.path(result.folder).is_dir():
        raise Conflict(
            "Its content, shared with another dataset, was deleted during the import.", remedy="Import it again."
        )
    twin = session.scalar(
        select(DatasetVersion).where(
            DatasetVersion.dataset_id == version.dataset_id,
            DatasetVersion.content_hash == result.content_hash,
            DatasetVersion.id != version.id,
        )
    )
    if twin is not None and not users_of_versions(session, [version.id]):
        session.delete(version)
        values = {"version_id": twin.id, "version": twin.number, "reused": True}
    else:
        version.content_hash, version.folder = result.content_hash, result.folder
        version.rows, version.train_rows, version.val_rows = result.rows, result.train_rows, result.val_rows
        version.rejected_rows, version.rejected = result.rejected_count, list(result.rejected)
        version.bytes = result.bytes
        version.facts = VersionFacts.model_validate(version.facts.dump() | result.dump())
        version.mapping = dict(result.mapping or version.mapping)
        values = {"version_id": version.id, "version": version.number, "reused": False}
        _fill_dependents(session, claim.job_id, result.folder)
    upload = source_of_payload(claim.payload).upload
    if upload is not None and Path(upload).parts[0] == "uploads":
        ctx.artifacts.remove(str(Path(upload).parent))  # the rows are in Parquet now
    return result.model_copy(update=values)


def _fill_dependents(session: Session, job_id: str, folder: str) -> None:
    """Fill in the folder in payloads of jobs that wait for this one."""
    for job in session.scalars(select(Job).where(Job.depends_on_id == job_id)).all():
        if job.payload.get("dataset", "") is None:
            job.payload = {**job.payload, "dataset": folder}


def _dataset_for_import(session: Session, ctx: Context, *, name: str, kind: str, person: Person) -> Dataset:
    """Return the dataset of a name, made if needed. Failed imports without references are deleted."""
    dataset = session.scalar(select(Dataset).where(Dataset.name == name))
    if dataset is None:
        dataset = Dataset(name=name, kind=kind, created_by=person.id, created_at=ctx.now())
        session.add(dataset)
        session.flush()
        return dataset
    for version in session.scalars(
        select(DatasetVersion).where(DatasetVersion.dataset_id == dataset.id, DatasetVersion.folder.is_(None))
    ).all():
        job = version_job(session, version)
        if (job is None or job.status in (Status.FAILED, Status.CANCELLED)) and not users_of_versions(
            session, [version.id]
        ):
            session.delete(version)
    session.flush()
    has_versions = (
        session.scalar(select(DatasetVersion.id).where(DatasetVersion.dataset_id == dataset.id).limit(1)) is not None
    )
    if dataset.kind != kind and has_versions:
        raise Conflict(
            f"“{name}” is a dataset of kind {dataset.kind}, and the import is of kind {kind}.",
            remedy="Give the new one another name.",
            field="name",
        )
    dataset.kind, dataset.archived_at = kind, None
    return dataset


def _version_of_key(ctx: Context, key: str) -> VersionView | None:
    with ctx.db.read() as session:
        job_id = session.scalar(select(Job.id).where(Job.idempotency_key == key))
    return version_of_job(ctx, job_id) if job_id else None


@dataclass(frozen=True)
class PastImport:
    """The request of an earlier import."""

    name: str
    source: ImportSource
    options: ImportOptions


def get_past_import(ctx: Context, version_id: str, *, person: Person) -> PastImport:
    """Return the request of a version's import. Raises NotFound if there is no such version, if it was not imported, or
    if its upload was deleted.
    """
    require_builder(person)
    with ctx.db.read() as session:
        version = session.get(DatasetVersion, version_id)
        job = version_job(session, version) if version is not None else None
        payload = ImportPayload.read(job.payload) if job is not None else None
        if version is None or payload is None or payload.derive is not None:
            raise NotFound("There is no such import.", remedy="Choose the source again.")
        dataset = session.get_one(Dataset, version.dataset_id)
        name = dataset.name
        options = view_of(ImportOptions, payload, kind=DatasetKind(dataset.kind))
    source = source_of_payload(payload)
    if source.upload is not None and not ctx.artifacts.path(source.upload).exists():
        raise NotFound("The uploaded file was deleted.", remedy="Upload it again.")
    return PastImport(name, source, options)


def import_again(ctx: Context, version_id: str, *, person: Person, keep_good: bool = False) -> VersionView:
    """Queue the same import again; `keep_good` skips bad rows, however many. It resumes from the files and rows of the
    last attempt.

    Raises what `import_dataset` raises.
    """
    past = get_past_import(ctx, version_id, person=person)
    options = past.options.model_copy(update={"keep_good": True, "max_rejected": 1}) if keep_good else past.options
    return import_dataset(ctx, name=past.name, source=past.source, options=options, person=person)
