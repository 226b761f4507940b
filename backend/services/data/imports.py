"""An import once more: what an earlier one was asked for, and the same again, changed where it went wrong."""

from __future__ import annotations

from dataclasses import dataclass

from backend.db.tables import Dataset, DatasetVersion
from backend.errors import NotFound
from backend.services.context import Context, Person, require_builder
from backend.services.data.datasets import VersionView, import_dataset
from backend.services.data.sources import ImportSource, source_of_payload
from backend.services.data.views import job_of


@dataclass(frozen=True)
class PastImport:
    """What an import was asked for."""

    name: str
    kind: str
    source: ImportSource
    mapping: dict[str, str]
    val_fraction: float
    seed: int
    keep_good: bool
    encoding: str | None


def get_past_import(ctx: Context, version_id: str, *, person: Person) -> PastImport:
    """Return what the import of a version was asked for.

    Raises NotFound if there is no such version, if it was not imported, or if its upload is no longer here.
    """
    require_builder(person)
    with ctx.db.read() as session:
        version = session.get(DatasetVersion, version_id)
        job = job_of(session, version) if version is not None else None
        if version is None or job is None or job.payload.get("derive"):
            raise NotFound("There is no such import.", remedy="Choose the source anew.")
        payload, name = dict(job.payload), session.get_one(Dataset, version.dataset_id).name
    source = source_of_payload(payload)
    if source.upload is not None and not ctx.artifacts.path(source.upload).is_file():
        raise NotFound("The file that was uploaded is no longer here.", remedy="Upload it again.")
    return PastImport(
        name=name,
        kind=str(payload.get("kind")),
        source=source,
        mapping=dict(payload.get("mapping") or {}),
        val_fraction=float(payload.get("val_fraction", 0.05)),
        seed=int(payload.get("seed", 1)),
        keep_good=bool(payload.get("keep_good", True)),
        encoding=payload.get("encoding"),
    )


def import_again(ctx: Context, version_id: str, *, person: Person, keep_good: bool = False) -> VersionView:
    """Ask for the same import once more, with `keep_good` leaving bad rows out this time.

    It goes on from what the last one fetched and read. Raises what `import_dataset` raises.
    """
    past = get_past_import(ctx, version_id, person=person)
    return import_dataset(
        ctx,
        name=past.name,
        kind=past.kind,
        mapping=dict(past.mapping),
        upload=past.source.upload,
        source_path=past.source.path,
        hub=past.source.hub,
        url=past.source.url,
        val_fraction=past.val_fraction,
        seed=past.seed,
        keep_good=keep_good or past.keep_good,
        encoding=past.encoding,
        person=person,
    )
