"""Entry of an import: convert a file, a folder, a Hub dataset, an object store or another version to Parquet files.

The files of a remote source are downloaded by byte ranges, with progress, rate, stop and resume. Downloads stay in
`fetched/<hash of the address>` below the artifacts until they have been imported, or for a day: the next attempt
downloads only what is missing.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from importlib import import_module
from pathlib import Path

from backend.domain.jobs.payloads import Derivation, ImportPayload
from backend.domain.jobs.results import ImportResult
from backend.errors import InvalidInput, JobFailed, NotFound, Unavailable
from backend.infra.files.cloud import find_cloud_files
from backend.infra.files.remote import Remote, RemoteFile
from backend.infra.hub.datasets import find_hub_dataset
from jobs.data.deriving import derive
from jobs.data.importer import import_files
from jobs.reporter import JobSpec, Reporter


def run(spec: JobSpec[ImportPayload], reporter: Reporter) -> ImportResult:
    """Import one dataset version. Raises what `import_files`, `fetched` and the sources raise."""
    payload = spec.payload
    if payload.derive is not None:
        return _derive(spec, payload.derive, reporter)
    remote = _find(payload, reporter)
    with _local_source(spec, reporter, remote) as source:
        result = import_files(
            source,
            payload,
            split=payload.split,
            cluster=payload.cluster,
            out_root=spec.path(payload.out_root),
            reporter=reporter,
        )
    if payload.tokenizer is not None and payload.shards:
        making = import_module("jobs.data.token_shards")  # imports torch, which no other import needs
        tokens = making.make_tokens_of(spec, Path(result.folder), reporter)
        result = result.model_copy(update={"tokens": tokens})
    facts = remote.listing.facts if remote else {}
    return ImportResult.model_validate({**result.dump(), "folder": spec.relative(Path(result.folder)), **facts})


def _find(payload: ImportPayload, reporter: Reporter) -> Remote | None:
    """Look up a source of the Hub or an object store; None for a local one."""
    if payload.source is not None:
        return None
    reporter.progress(0, 0, unit="byte", message="Looking up the source")
    if payload.url is not None:
        return find_cloud_files(payload.url)
    assert payload.hub is not None
    dataset = find_hub_dataset(payload.hub.id, revision=payload.hub.revision)
    chosen = dataset.choose(config=payload.hub.config, split=payload.hub.split)
    reporter.log(
        f"{chosen.listing.label}: {dataset.requested} is commit {dataset.commit}; licence:"
        f" {dataset.licence or 'not stated'}."
    )
    return chosen


def _local_source(
    spec: JobSpec[ImportPayload], reporter: Reporter, remote: Remote | None
) -> AbstractContextManager[Path]:
    """Lend the file or folder to read: a local one, or a download."""
    if remote is None:
        source = spec.path(str(spec.payload.source))
        if not source.exists():
            raise NotFound(
                f"This worker can't read {source}.",
                remedy="Put it where all workers can read it, or upload it.",
                field="source",
            )
        return nullcontext(source)
    facts = remote.listing.facts
    return fetched(
        remote,
        root=spec.path("fetched"),
        address=f"{remote.listing.label} {facts.get('commit', '')}",
        keep_free_bytes=spec.payload.keep_free_bytes,
        reporter=reporter,
    )


def _derive(spec: JobSpec[ImportPayload], derivation: Derivation, reporter: Reporter) -> ImportResult:
    result = derive(
        spec.path(derivation.folder),
        change=derivation.change,
        other=spec.path(derivation.other) if derivation.other else None,
        out_root=spec.path(spec.payload.out_root),
        reporter=reporter,
    )
    return result.model_copy(update={"folder": spec.relative(Path(result.folder))})


_FIRST_CHUNK, MIN_CHUNK, MAX_CHUNK = 2**20, 2**18, 2**25
TRIES, PAUSE_S = 5, 0.5
STALE_S = 24 * 3600.0
REPORT_EVERY_S = 0.5
MARKS = "marks.json"


@contextmanager
def fetched(remote: Remote, *, root: Path, address: str, keep_free_bytes: int, reporter: Reporter) -> Iterator[Path]:
    """Download a source below `root` and lend the file or folder, which is removed if the block succeeds.

    Raises Unavailable when the source or the disk fails, JobFailed when stopped on request.
    """
    root.mkdir(parents=True, exist_ok=True)
    _forget_old(root)
    place = root / hashlib.sha256(address.encode()).hexdigest()[:24]
    with _locked(place, reporter):
        try:
            _Download(remote, place, keep_free_bytes=keep_free_bytes, reporter=reporter).run()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise Unavailable(
                f"The disk that holds {root} is full.", remedy="Free space, then import again: it resumes."
            ) from error
        files = remote.listing.files
        yield place / "files" / files[0].path if len(files) == 1 else place / "files"
        shutil.rmtree(place, ignore_errors=True)


def _forget_old(root: Path) -> None:
    """Remove downloads unused for a day; those of running imports are locked and kept."""
    for old in [path for path in root.iterdir() if path.is_dir() and path.stat().st_mtime < time.time() - STALE_S]:
        with (root / f"{old.name}.lock").open("w") as lock, suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _locked(place: Path, reporter: Reporter) -> Iterator[None]:
    """Lock a folder for one import; the next waits and can be stopped meanwhile."""
    with place.with_name(f"{place.name}.lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                reporter.progress(0, 0, unit="byte", message="Waiting: another import downloads the same files")
                if reporter.should_stop():
                    raise _stopped() from None
                time.sleep(PAUSE_S)
        yield


def _stopped() -> JobFailed:
    return JobFailed(
        "The import was stopped on request.", remedy="Downloads are kept for a day: import again to resume."
    )


class _Download:
    """One pass over the files of a source."""

    def __init__(self, remote: Remote, place: Path, *, keep_free_bytes: int, reporter: Reporter) -> None:
        self._remote, self._reporter, self._keep = remote, reporter, keep_free_bytes
        self._place, self._files = place, place / "files"
        self._total = remote.listing.bytes
        self._done = 0  # bytes on disk, including earlier attempts
        self._chunk = _FIRST_CHUNK
        self._window: list[tuple[float, int]] = []
        self._reported = 0.0

    def run(self) -> None:
        """Download the missing bytes."""
        self._files.mkdir(parents=True, exist_ok=True)
        self._drop_changed()
        targets = [(file, self._target(file)) for file in self._remote.listing.files]
        have = sum(_size(target) or _size(_part(target)) for _, target in targets)
        self._check_disk(self._total - have)
        if have:
            self._reporter.log(f"{have:,} of {self._total:,} bytes were downloaded before; resuming.")
        for file, target in targets:
            if _size(target) == file.bytes:
                self._done += file.bytes
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            self._fetch(file, target)
        self._reporter.progress(self._total, self._total, unit="byte", message="All files downloaded")

    def _target(self, file: RemoteFile) -> Path:
        target = (self._files / file.path).resolve()
        if not target.is_relative_to(self._files.resolve()):
            raise InvalidInput(f"The path {file.path!r} of the source leads out of its folder.", field="source")
        return target

    def _drop_changed(self) -> None:
        """Delete downloads whose source file has changed or is gone."""
        marks = {file.path: file.mark for file in self._remote.listing.files}
        path = self._place / MARKS
        try:
            before: dict[str, str] = json.loads(path.read_text())
        except (OSError, ValueError):
            before = {}
        if before != marks:
            unchanged = {
                self._target(file) for file in self._remote.listing.files if before.get(file.path) == file.mark
            }
            for old in [old for old in self._files.rglob("*") if old.is_file()]:
                if old not in unchanged and old.with_name(old.name.removesuffix(".part")) not in unchanged:
                    old.unlink()
            path.write_text(json.dumps(marks))
        os.utime(self._place)

    def _check_disk(self, needed: int) -> None:
        free = shutil.disk_usage(self._files).free
        if free - needed < self._keep:
            raise Unavailable(
                f"The files have {needed / 1e9:,.2f} GB; the disk has {free / 1e9:,.2f} GB free, "
                f"of which {self._keep / 1e9:,.2f} are reserved.",
                remedy="Free space, or move ROUNDHOUSE_HOME to a larger disk.",
            )

    def _fetch(self, file: RemoteFile, target: Path) -> None:
        part = _part(target)
        with part.open("ab") as out:
            at = out.tell()
            if at > file.bytes:
                at = 0
                out.truncate(0)
            self._done += at
            while at < file.bytes:
                self._report(file)
                end = min(at + self._chunk, file.bytes)
                started = time.monotonic()
                data = self._read(file, at, end)
                out.write(data)
                at, self._done = end, self._done + len(data)
                # a chunk should take about a second: frequent enough for progress and stopping, large enough to be fast
                rate = len(data) / max(1e-3, time.monotonic() - started)
                self._chunk = int(min(MAX_CHUNK, max(MIN_CHUNK, rate)))
        part.rename(target)

    def _read(self, file: RemoteFile, start: int, end: int) -> bytes:
        """Read one range, retrying after temporary failures."""
        for attempt in range(1, TRIES + 1):
            try:
                return self._remote.read(file, start, end)
            except Unavailable as error:
                if attempt == TRIES:
                    error.remedy += " Downloads are kept for a day: import again to resume."
                    raise
                self._reporter.log(f"{error.message} Trying again ({attempt} of {TRIES - 1}).")
                self._wait(PAUSE_S * 2 ** (attempt - 1))
        raise AssertionError("unreachable")

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self._reporter.should_stop():
                raise _stopped()
            time.sleep(min(0.25, seconds))

    def _report(self, file: RemoteFile) -> None:
        now = time.monotonic()
        if self._reporter.should_stop():
            raise _stopped()
        if now - self._reported < REPORT_EVERY_S:
            return
        self._reported = now
        self._window = [*self._window, (now, self._done)][-20:]
        (since, before), seconds = self._window[0], now - self._window[0][0]
        rate = (self._done - before) / seconds if now > since else None
        self._reporter.progress(
            self._done, self._total, unit="byte", rate=rate, message=f"Downloading {Path(file.path).name}"
        )


def _part(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
