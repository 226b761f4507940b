"""Sources of an import: an upload, a local file or folder, the Hub, an object store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from backend.domain.data.rows.columns import SourceHead
from backend.domain.jobs.payloads import HubSource, ImportPayload
from backend.domain.wording import list_first
from backend.errors import InvalidInput, NotFound
from backend.infra.files.cloud import find_cloud_files, is_cloud_url
from backend.infra.files.heads import head_of_path, head_of_remote
from backend.infra.files.local import saved_splits
from backend.infra.files.remote import Remote
from backend.infra.hub.datasets import find_hub_dataset
from backend.services.context import Context, Person, require_builder
from backend.services.data.data_folder import local_source
from backend.services.data.uploads import uploaded_name


@dataclass(frozen=True)
class ImportSource:
    """One source of an import: exactly one of `upload` (what `save_upload` returned), `path`, `hub` and `url`.

    `split` names one split of what `datasets` saved, a folder or a zip; without it its train and validation splits are
    kept.
    """

    upload: str | None = None
    path: Path | None = None
    hub: HubSource | None = None
    url: str | None = None
    split: str | None = None

    @property
    def label(self) -> str:
        """The source's name in the version's record."""
        if self.hub is not None:
            revision = f"@{self.hub.revision[:12]}" if self.hub.revision else ""
            return " · ".join(filter(None, [f"{self.hub.id}{revision}", self.hub.config, self.hub.split]))
        split = f" · {self.split}" if self.split else ""
        stored = self.path or Path(str(self.upload))
        return self.url or f"{stored.name}{split}"

    @property
    def is_remote(self) -> bool:
        """Return whether it must be downloaded first."""
        return self.hub is not None or self.url is not None


def name_source(ctx: Context, source: ImportSource) -> str:
    """Return a source's name for the version's record; of several uploads the names of the first three."""
    folder = ctx.artifacts.path(source.upload) if source.upload else None
    if folder is None or not folder.is_dir():
        return source.label
    return list_first([uploaded_name(name) for name in sorted(file.name for file in folder.iterdir())], MAX_NAMED)


MAX_NAMED = 3
MAX_WHOLE_BYTES = 256 * 2**20


def read_whole(ctx: Context, source: ImportSource, *, person: Person) -> bytes:
    """Return the bytes of an upload or a file, to be read as something else than a dataset, such as votes.

    Raises InvalidInput for a folder, a remote or a very large source, NotFound for one that was deleted meanwhile, and
    what `local_source` raises.
    """
    path = None if source.is_remote else _local_path(ctx, source, person)
    if path is None or path.is_dir() or (path.exists() and path.stat().st_size > MAX_WHOLE_BYTES):
        raise InvalidInput(f"{source.label} is not a file of at most {MAX_WHOLE_BYTES // 2**20} MB.", field="source")
    if not path.is_file():
        raise NotFound(f"{source.label} was deleted meanwhile.", remedy="Choose the file again.")
    return path.read_bytes()


def source_fields(ctx: Context, source: ImportSource, *, person: Person) -> dict[str, object]:
    """Return the fields of an ImportPayload that name the source.

    Raises InvalidInput unless there is exactly one source of a known form, and what `local_source` raises.
    """
    if sum(part is not None for part in (source.upload, source.path, source.hub, source.url)) != 1:
        raise InvalidInput("An import needs one source.", remedy="Choose a file, a folder, a Hub id or an address.")
    if source.url is not None and not is_cloud_url(source.url):
        raise InvalidInput(
            f"{source.url[:120]!r} is not an address of S3 or Google Cloud Storage.",
            remedy="Write it as s3://bucket/path or gs://bucket/path.",
            field="url",
        )
    place = str(local_source(ctx, source.path, person=person)) if source.path is not None else source.upload
    return {"source": place, "hub": source.hub, "url": source.url, "split": source.split}


def source_of_payload(payload: ImportPayload) -> ImportSource:
    """Return the source of a job's payload."""
    path = Path(payload.source) if payload.source else None
    is_upload = path is not None and not path.is_absolute()
    return ImportSource(
        upload=payload.source if is_upload else None,
        path=None if is_upload else path,
        hub=payload.hub,
        url=payload.url,
        split=payload.split,
    )


@dataclass(frozen=True)
class HubSplitView:
    """Files and bytes of one split."""

    files: int
    bytes: int


@dataclass(frozen=True)
class HubDatasetView:
    """A dataset of the Hub at one commit. `configs`: config -> split -> its size."""

    commit: str
    licence: str
    configs: dict[str, dict[str, HubSplitView]]


def look_up_hub_dataset(dataset_id: str, *, revision: str | None, person: Person) -> HubDatasetView:
    """Ask the Hub for a dataset's configs and splits. Raises NotFound, InvalidInput, or Unavailable in seconds."""
    require_builder(person)
    dataset = find_hub_dataset(dataset_id, revision=revision)
    configs = {
        config: {
            split: HubSplitView(len(paths), sum(dataset.files[path].bytes for path in paths))
            for split, paths in splits.items()
        }
        for config, splits in dataset.configs.items()
    }
    return HubDatasetView(dataset.commit, dataset.licence, configs)


def list_saved_splits(ctx: Context, source: ImportSource, *, person: Person) -> tuple[str, ...]:
    """Return the splits that `datasets` saved, in a folder or a zip; nothing for any other source.

    Raises what `local_source` raises, InvalidInput.
    """
    return () if source.is_remote else tuple(saved_splits(_local_path(ctx, source, person)) or ())


def read_source_head(ctx: Context, source: ImportSource, *, person: Person, encoding: str | None = None) -> SourceHead:
    """Return the first rows of a source. Cache the result: of a remote source some megabytes are downloaded.

    Raises NotFound, InvalidInput, NotAllowed, Unavailable."""
    require_builder(person)
    if source.is_remote:
        return head_of_remote(_find_remote(source), encoding=encoding)
    return head_of_path(_local_path(ctx, source, person), encoding=encoding, split=source.split)


def _local_path(ctx: Context, source: ImportSource, person: Person) -> Path:
    if source.path is not None:
        return local_source(ctx, source.path, person=person)
    return ctx.artifacts.path(str(source.upload))


def _find_remote(source: ImportSource) -> Remote:
    if source.url is not None:
        return find_cloud_files(source.url)
    assert source.hub is not None
    dataset = find_hub_dataset(source.hub.id, revision=source.hub.revision)
    return dataset.choose(config=source.hub.config, split=source.hub.split)
