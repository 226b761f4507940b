"""Download a base from the Hub with progress, resuming the partial files of an earlier attempt; upload a folder as one
commit, with the Hub's client. The worker's key is stored nowhere.

The Hub's own library discards a partial file; here a killed worker or a lost connection costs no downloaded byte. Code
and pickles of the repository are never downloaded.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
from huggingface_hub import CommitOperationAdd, HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from backend.domain.jobs.results import Pushed
from backend.domain.wording import plural
from backend.errors import Conflict, InvalidInput, JobFailed, Unavailable
from backend.infra.checkpoints.candidates import weight_files
from backend.infra.files.hashes import hash_file
from backend.infra.hub.bases import HubBase, HubFile, HubRevision, look_up_base, open_file
from backend.infra.hub.errors import BASE, HubRequest, endpoint, hub_errors
from jobs.reporter import Reporter

SILENCE_S = 15.0
"""Timeout of a silent connection."""
PAUSES_S = (1.0, 2.0, 4.0)
"""Pauses before a broken connection is retried; any byte received resets them."""
REPORT_S = 0.5
RATE_S = 10.0
KEEP_S = 7 * 86_400.0
"""Retention of partial downloads, for another attempt."""


@dataclass(frozen=True)
class Fetched:
    """A downloaded base: a folder or a `.gguf` file, and its commit.

    `is_ours`: downloaded for this job, so its files may be moved.
    """

    path: Path
    commit: str
    licence: str | None
    is_ours: bool = True


@contextmanager
def fetched_base(
    hub: str, *, revision: str | None, root: Path, keep_free_bytes: int, reporter: Reporter
) -> Iterator[Fetched]:
    """Download a base's files from a Hub repository below `root`; delete them when the block ends, unless the download
    failed.

    If the Hub does not answer, the revision is taken from this machine's Hub cache. Raises NotFound for an id or
    revision that is not there, InvalidInput for one that can't be a base, Unavailable where the Hub or the disk fails,
    Conflict while another job fetches the same commit, JobFailed when asked to stop.
    """
    _forget_old(root)
    reporter.progress(0, 1, unit="answer", message=f"Asking the Hub for {hub}")
    try:
        base = look_up_base(hub, revision=revision)
    except Unavailable as error:
        cached = _cached(hub, revision)
        if cached is None:
            raise
        reporter.log(f"{error.message} This machine's Hub cache holds commit {cached.name}, which is used.")
        yield Fetched(cached, cached.name, None, is_ours=False)
        return
    resolved = base.revision
    reporter.log(
        f"{hub}: {resolved.requested} is commit {resolved.commit}; licence: {resolved.licence or 'not stated'}."
    )
    place = root / f"{hub.replace('/', '--')}--{resolved.commit}"
    with _alone(place, hub):
        try:
            _fetch(base, place, keep_free_bytes=keep_free_bytes, reporter=reporter)
        except Unavailable:
            raise
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
        try:
            is_gguf = base.facts.kind == "gguf"
            yield Fetched(place / base.weights[0].name if is_gguf else place, resolved.commit, resolved.licence)
        finally:
            shutil.rmtree(place, ignore_errors=True)


def _fetch(base: HubBase, place: Path, *, keep_free_bytes: int, reporter: Reporter) -> None:
    """Download missing files. A file has its final name once it is complete; until then it is `NAME.part`."""
    place.mkdir(parents=True, exist_ok=True)
    files = [*base.data, *base.weights]
    downloaded = sum(path.stat().st_size for path in place.iterdir())
    _require_free(place, base.bytes - downloaded, keep_free_bytes)
    if downloaded:
        reporter.log(f"{downloaded:,} bytes were downloaded by an earlier attempt.")
    meter = _Meter(reporter, total=base.bytes)
    with hub_errors(base.revision.id, BASE):
        for file in files:
            target, part = place / file.name, place / f"{file.name}.part"
            meter.begin(file.name)
            if not target.is_file():
                _fetch_file(base.revision, file, part, meter)
                if file.sha256 is not None and hash_file(part) != file.sha256:
                    part.unlink()
                    raise Unavailable(
                        f"{file.name} does not match the Hub: its SHA-256 differs.",
                        remedy="Add the base again to download it again.",
                    )
                part.rename(target)
            meter.end(file.bytes)


def _fetch_file(revision: HubRevision, file: HubFile, part: Path, meter: _Meter) -> None:
    """Append to `part` until it is complete. Raises Unavailable, or the connection's error, after several attempts
    without a byte.
    """
    failures = 0
    part.touch()
    while (start := part.stat().st_size) != file.bytes:
        broken: Exception | None = None
        try:
            _append(revision, file, part, meter, start=start if start < file.bytes else 0)
        except (httpx2.TransportError, httpx2.StreamError) as error:
            broken = error
        now = part.stat().st_size
        failures = 0 if now > start else failures + 1
        if failures > len(PAUSES_S):
            raise broken or Unavailable(
                f"{file.name} arrived with {now:,} of {file.bytes:,} bytes.", remedy=BASE.remedy
            )
        if now != file.bytes:
            meter.pause(PAUSES_S[max(0, failures - 1)])


def _append(revision: HubRevision, file: HubFile, part: Path, meter: _Meter, *, start: int) -> None:
    with open_file(revision, file, start=start, silence_s=SILENCE_S) as response:
        received = start if response.status_code == 206 else 0
        with part.open("ab" if received else "wb") as stream:
            for chunk in response.iter_bytes():
                received += len(chunk)
                if received > file.bytes:
                    raise Unavailable(
                        f"{file.name} is longer than the Hub says: more than {file.bytes:,} bytes.", remedy=BASE.remedy
                    )
                stream.write(chunk)
                meter.received(received, came=len(chunk))


class _Meter:
    """Reports bytes of all files with their rate, at most twice per second, and raises JobFailed on a stop request."""

    def __init__(self, reporter: Reporter, *, total: int) -> None:
        self._reporter, self._total = reporter, total
        self._before, self._held, self._came, self._name, self._last = 0, 0, 0, "", 0.0
        self._past: deque[tuple[float, int]] = deque()

    def begin(self, name: str) -> None:
        """Start a file."""
        self._name, self._held = name, 0

    def end(self, size: int) -> None:
        """Count a file as complete."""
        self._before, self._held = self._before + size, 0
        self._report()

    def received(self, held: int, *, came: int) -> None:
        """Report the file's bytes so far, `new` of them just received. Raises JobFailed on a stop request."""
        self._held, self._came = held, self._came + came
        if time.monotonic() - self._last >= REPORT_S:
            self._report()

    def pause(self, seconds: float) -> None:
        """Wait before a retry; a stop request ends it."""
        self._report()
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(0.25, left))
            self._report()

    def _report(self) -> None:
        now, done = time.monotonic(), self._before + self._held
        self._last = now
        self._past.append((now, self._came))  # bytes of an earlier attempt do not count in the rate
        while now - self._past[0][0] > RATE_S:
            self._past.popleft()
        began, first = self._past[0]
        rate = (self._came - first) / (now - began) if now > began else None
        self._reporter.progress(done, self._total, unit="byte", rate=rate, message=f"Fetching {self._name}")
        if self._reporter.should_stop() is not None:
            raise JobFailed(
                "The download was stopped on request.", remedy="No files were kept; add the base again to retry."
            )


def _require_free(folder: Path, needed: int, keep: int) -> None:
    free = shutil.disk_usage(folder).free
    if free - needed < keep:
        raise Unavailable(
            f"The download has {needed / 1e9:,.2f} GB, and the disk has {free / 1e9:,.2f} GB free, of which"
            f" {keep / 1e9:,.2f} are kept.",
            remedy="Free space, or move ROUNDHOUSE_HOME to a larger disk.",
        )


@contextmanager
def _alone(place: Path, hub: str) -> Iterator[None]:
    """Prevent two jobs from downloading the same commit at once."""
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = place.with_name(place.name + ".lock")
    with lock.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(
                f"{hub} is being downloaded by another job.", remedy="Wait for it, then use that base or add this one."
            ) from error
        yield


def _forget_old(root: Path) -> None:
    """Delete the files of old failed attempts."""
    if not root.is_dir():
        return
    oldest = time.time() - KEEP_S
    for path in root.iterdir():
        files = list(path.iterdir()) if path.is_dir() else []
        if max(file.stat().st_mtime for file in [path, *files]) < oldest:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def _cached(hub: str, revision: str | None) -> Path | None:
    """Return the folder of the revision in this machine's Hub cache, if it is complete."""
    try:
        config = try_to_load_from_cache(hub, "config.json", revision=revision)
        if not isinstance(config, str):
            return None
        folder = Path(config).parent
        weight_files(folder)
    except (OSError, ValueError, InvalidInput, HFValidationError):
        return None
    return folder if re.fullmatch("[0-9a-f]{40}", folder.name) else None


PUBLIC = "https://huggingface.co"
TARGET = HubRequest("repository", "push", "upload the export by hand")


def push_folder(folder: Path, *, repo: str, private: bool, message: str, reporter: Reporter) -> Pushed:
    """Create the repository if it does not exist, upload every file, then commit them together.

    The commit keeps files that the folder lacks. Raises Unavailable without a key and if the Hub refuses it or does not
    answer; JobFailed on a stop request, with nothing committed.
    """
    key = os.environ.get("HF_TOKEN", "")
    if not key:
        raise Unavailable(
            f"Pushing to {repo} needs a key of the Hub, and this worker has none.",
            remedy="Set HF_TOKEN, for the worker, to a key that may write.",
        )
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    total, done = sum(path.stat().st_size for path in files), 0
    if endpoint() != PUBLIC:  # mirrors and self-hosted servers support the plain transfer of Git LFS only
        constants.HF_HUB_DISABLE_XET = True
    api = HfApi(endpoint=endpoint(), token=key)
    with hub_errors(repo, TARGET):
        api.create_repo(repo, private=private, exist_ok=True)
        additions = []
        for path in files:
            reporter.progress(done, total, unit="byte", message=f"Pushing {path.name} to {repo}")
            if reporter.should_stop() is not None:
                raise JobFailed(
                    "The push was stopped on request.", remedy="Nothing was committed; push again to retry."
                )
            addition = CommitOperationAdd(path_in_repo=path.relative_to(folder).as_posix(), path_or_fileobj=str(path))
            api.preupload_lfs_files(repo, additions=[addition])
            additions.append(addition)
            done += path.stat().st_size
        commit = api.create_commit(repo, operations=additions, commit_message=message)
    reporter.progress(total, total, unit="byte", message=f"Pushed to {repo}")
    reporter.log(f"Pushed {plural(len(files), 'file')} to {repo}, commit {commit.oid[:12]}.")
    return Pushed(repo=repo, url=f"{endpoint()}/{repo}", commit=commit.oid)
