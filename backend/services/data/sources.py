"""Sources of an import: an upload, a local file or folder, the Hub, an object store.

DATA_PATH is the operator's folder of data files; it is read folder by folder, never recursively as a whole. Uploaded
files are streamed to disk, kept until a job has read them, and deleted after a day.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import select

from backend.db.base import new_id
from backend.db.tables import Job
from backend.domain.data.parsing.text_formats import suffix_of
from backend.domain.data.rows.columns import SourceHead
from backend.domain.jobs.payloads import HubSource, ImportPayload
from backend.domain.jobs.states import ACTIVE, JobKind
from backend.domain.wording import list_first
from backend.errors import InvalidInput, NotAllowed, NotFound
from backend.infra.files.cloud import find_cloud_files, is_cloud_url
from backend.infra.files.heads import head_of_path, head_of_remote
from backend.infra.files.local import saved_splits
from backend.infra.files.paths import find_path, is_text
from backend.infra.files.remote import Remote
from backend.infra.hub.datasets import find_hub_dataset
from backend.services.context import Context, Person, require_builder


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
    return list_first([_uploaded_name(name) for name in sorted(file.name for file in folder.iterdir())], MAX_NAMED)


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


MAX_ENTRIES = 2000
MAX_FOUND = 200
SEARCH_S = 1.5
"""Time limit of a search, after which it returns the matches so far."""


@dataclass(frozen=True)
class DataEntry:
    """A folder, or a file that rows can be read from. `path` is below DATA_PATH; a folder's `bytes` are 0."""

    path: str
    is_folder: bool
    bytes: int

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class FolderView:
    """Entries of one folder, folders first. `left_out`: files of other endings and links that lead out; `more`: there
    are over 2,000.
    """

    path: str
    entries: tuple[DataEntry, ...]
    left_out: int
    more: bool

    @property
    def files(self) -> tuple[DataEntry, ...]:
        """The files among the entries."""
        return tuple(entry for entry in self.entries if not entry.is_folder)


def browse_data_folder(ctx: Context, folder: str = "") -> FolderView | None:
    """Return the entries of a folder below DATA_PATH; None if DATA_PATH is not set.

    Raises NotAllowed for a path or link that leads out of DATA_PATH, NotFound if it is not a folder.
    """
    if ctx.data_path is None or not ctx.data_path.is_dir():
        return None
    place = data_file(ctx, folder)
    if not place.is_dir():
        raise NotFound(f"There is no folder {folder!r} among the data files.", remedy="Choose another.", field="folder")
    root = str(ctx.data_path.resolve())
    entries: list[DataEntry] = []
    left_out = 0
    for entry in _scan(place):
        offered = _entry(root, entry)
        if offered is None:
            left_out += not entry.name.startswith(".")
        elif len(entries) <= MAX_ENTRIES:
            entries.append(offered)
    entries.sort(key=lambda entry: (not entry.is_folder, entry.name.lower()))
    return FolderView(folder.strip("/"), tuple(entries[:MAX_ENTRIES]), left_out, len(entries) > MAX_ENTRIES)


def search_data_folder(ctx: Context, text: str, *, folder: str = "") -> tuple[list[DataEntry], bool]:
    """Return files below a folder whose path contains a text, nearest first, and whether all were searched."""
    if ctx.data_path is None or not text.strip():
        return [], True
    root = str(ctx.data_path.resolve())
    text_lower, entries = text.strip().lower(), list[DataEntry]()
    waiting, end = deque([data_file(ctx, folder)]), time.monotonic() + SEARCH_S
    while waiting:
        for entry in _scan(waiting.popleft()):
            if entry.is_dir(follow_symlinks=False):  # links to folders are not followed: they may form a cycle
                if not entry.name.startswith("."):
                    waiting.append(Path(entry.path))
            elif (
                text_lower in entry.path[len(root) + 1 :].lower()
                and (offered := _entry(root, entry)) is not None
                and not offered.is_folder
            ):
                entries.append(offered)
        if len(entries) >= MAX_FOUND or time.monotonic() > end:
            return entries[:MAX_FOUND], not waiting and len(entries) <= MAX_FOUND
    return entries, True


def data_file(ctx: Context, path: str) -> Path:
    """Return the resolved path of a file below DATA_PATH.

    Raises NotAllowed if it, or a link in it, leads out; NotFound without DATA_PATH.
    """
    if ctx.data_path is None:
        raise NotFound("DATA_PATH is not set.", remedy="Set DATA_PATH, or upload the file.", field="file")
    root = ctx.data_path.resolve()
    full = Path(os.path.realpath(root / path))  # `resolve` raises for a link to itself
    if not full.is_relative_to(root):
        raise NotAllowed(
            f"{path!r} leads out of the folder of data files.",
            remedy="Put the file itself under DATA_PATH, or upload it.",
        )
    return full


def local_source(ctx: Context, source: Path, *, person: Person) -> Path:
    """Return the resolved path of a local file or folder to import. It is read in place.

    Raises NotFound, and NotAllowed for a path outside DATA_PATH when an account asks.
    """
    path = find_path(source)
    full = path.resolve() if path is not None else None
    inside = full is not None and ctx.data_path is not None and full.is_relative_to(ctx.data_path.resolve())
    if person.id is not None and not inside:
        raise NotAllowed(
            f"{source} lies outside the folder of data files.", remedy="Put it under DATA_PATH, or upload it."
        )
    if full is None:
        raise NotFound(f"There is no file {source}.", remedy="Check the path.", field="file")
    return full


def _scan(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError:  # removed or unreadable by now
        return


def _entry(root: str, entry: os.DirEntry[str]) -> DataEntry | None:
    """Return an entry of a folder; None if hidden, of another ending, broken, not text, or a link that leads out."""
    if entry.name.startswith(".") or not is_text(entry.path):
        return None
    try:
        if entry.is_symlink() and not Path(os.path.realpath(entry.path)).is_relative_to(root):
            return None
        path = entry.path[len(root) + 1 :]
        if entry.is_dir():
            return DataEntry(path, True, 0)
        suffix_of(entry.name)
        return DataEntry(path, False, entry.stat().st_size) if entry.is_file() else None
    except (OSError, InvalidInput):
        return None


CHUNK_BYTES = 1 << 20
KEEP_UNUSED = timedelta(days=1)
READERS: dict[str, str] = {
    JobKind.IMPORT_DATASET.value: "source",
    JobKind.LOGLIKELIHOOD.value: "rows_file",
    JobKind.CLASSIFY.value: "texts_file",
}
"""Kinds of jobs that read an upload, with the payload's field of its path."""


def save_upload(ctx: Context, file: BinaryIO, *, name: str, person: Person) -> str:
    """Stream a file into `uploads/` and return its stored path.

    Raises InvalidInput for an ending that can't be read, an empty file or one above the installation's limit,
    Unavailable if the disk is too full.
    """
    with _new_folder(ctx, person) as folder:
        path = folder / _safe_name(name)
        _stream(ctx, file, name, path)
        return ctx.artifacts.relative(path)


def save_uploads(ctx: Context, files: Sequence[tuple[str, BinaryIO]], *, person: Person) -> str:
    """Stream named files into `uploads/` and return their stored path: of one the file, of several their folder, where
    their names (`stored_names`) keep their order.

    Raises what `save_upload` raises.
    """
    if len(files) == 1:
        ((name, file),) = files
        return save_upload(ctx, file, name=name, person=person)
    with _new_folder(ctx, person) as folder:
        inside = folder / "uploaded files"
        inside.mkdir()
        for (name, file), stored in zip(files, stored_names([name for name, _ in files]), strict=True):
            _stream(ctx, file, name, inside / stored)
        return ctx.artifacts.relative(inside)


@contextmanager
def _new_folder(ctx: Context, person: Person) -> Iterator[Path]:
    require_builder(person)
    _forget_unused(ctx)
    folder = ctx.artifacts.folder("uploads", new_id())
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _stream(ctx: Context, file: BinaryIO, name: str, path: Path) -> None:
    written = 0
    with path.open("wb") as out:
        while chunk := file.read(CHUNK_BYTES):
            written += len(chunk)
            if written > ctx.policy.max_upload_bytes:
                raise InvalidInput(
                    f"{name} is larger than {ctx.policy.max_upload_bytes / 2**20:.0f} MB.",
                    remedy="Put it into DATA_PATH, or raise ROUNDHOUSE_MAX_UPLOAD_MB.",
                    field="file",
                )
            ctx.artifacts.require_free(len(chunk), keep=ctx.policy.keep_free_bytes, purpose="The upload")
            out.write(chunk)
    if not written:
        raise InvalidInput(f"{name} is empty.", field="file")


def stored_names(names: Sequence[str]) -> list[str]:
    """Return the names under which uploaded files are stored: numbered where theirs would change their order, or are
    equal. Raises InvalidInput for an ending that can't be read.
    """
    safe = [_safe_name(name) for name in names]
    if safe == sorted(set(safe)):
        return safe
    digits = len(str(len(safe)))
    return [f"{number:0{digits}} {name}" for number, name in enumerate(safe, start=1)]


def _uploaded_name(stored: str) -> str:
    """Return a stored name without the number of its file.

    >>> _uploaded_name("02 tales.csv")
    'tales.csv'
    """
    return stored.rpartition(" ")[2]


def _safe_name(name: str) -> str:
    """Return a file name without folders and special characters. Raises InvalidInput if its ending can't be read."""
    base = Path(name.replace("\\", "/")).name
    ending = "".join(suffix_of(base))
    stem = re.sub(r"[^\w.-]+", "-", base[: -len(ending)]).strip(".-")[:80]
    return f"{stem or 'file'}{ending}"


def _forget_unused(ctx: Context) -> None:
    """Delete uploads that were not imported within a day; those of unfinished jobs stay."""
    oldest = (ctx.now() - KEEP_UNUSED).timestamp()
    old = [folder for folder in ctx.artifacts.folder("uploads").iterdir() if folder.stat().st_mtime < oldest]
    if not old:
        return
    with ctx.db.read() as session:
        active = session.execute(select(Job.kind, Job.payload).where(Job.kind.in_(READERS), Job.status.in_(ACTIVE)))
        needed = {Path(str(payload.get(READERS[kind]))).parent.name for kind, payload in active}
    for folder in old:
        if folder.name not in needed:
            with suppress(OSError):
                ctx.artifacts.remove(ctx.artifacts.relative(folder))
