"""Folders of a store and their copies on this machine: brought with every hash checked, sent with the manifest last,
and removed by age where they take more than the cache may hold.

`root/.store` holds what this machine knows: the manifests of its complete copies, whose time is that of the last use,
files that are being fetched, and locks.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from backend.domain.jobs.artifact_folders import is_working
from backend.errors import NotFound, Unavailable
from backend.infra.store.manifest import (
    MANIFEST,
    PIECE_BYTES,
    PIECES,
    REMEDY,
    DamagedFolder,
    Manifest,
    StoredFile,
    digest_of,
    iter_pieces,
    list_files,
    read_manifest,
)
from backend.infra.store.objects import Objects

log = logging.getLogger(__name__)

STATE = ".store"
AT_ONCE = 4
"""Pieces under way at once, each held in memory."""
ANSWER_S = 20.0
SLOWEST_BYTES_PER_S = 2**18
"""A piece may take as long as this speed needs."""
KEEP_INCOMING_S = 86_400.0
"""Pieces of a fetch that broke off are kept so long."""
IDLE_S = 600.0
"""A copy that was used more recently is not removed: a page may be reading it."""


@dataclass(frozen=True)
class Selection:
    """Files of a folder: the file or subfolder `only`, none larger than `limit_bytes`."""

    only: str | None = None
    limit_bytes: int | None = None

    def of(self, manifest: Manifest) -> list[StoredFile]:
        """Return the selected files of a manifest."""
        return [
            file
            for file in manifest.files
            if (self.only in (None, file.path) or file.path.startswith(f"{self.only}/"))
            and (self.limit_bytes is None or file.size <= self.limit_bytes)
        ]


ALL = Selection()


class FolderStore:
    """The folders of a store, with copies below `root` that take about `limit_bytes` at most."""

    def __init__(
        self,
        root: Path,
        objects: Objects,
        *,
        limit_bytes: int,
        idle_s: float = IDLE_S,
        piece_bytes: int = PIECE_BYTES,
    ) -> None:
        self.root, self.objects = root, objects
        self.limit_bytes, self.idle_s, self.piece_bytes = limit_bytes, idle_s, piece_bytes
        self._state = root / STATE
        for name in ("manifests", "incoming", "locks"):
            (self._state / name).mkdir(parents=True, exist_ok=True, mode=0o700)

    def is_here(self, folder: str, selection: Selection = ALL) -> bool:
        """Return whether this machine has a copy of a sent folder, or of some files of it, without asking the store."""
        manifest = self._own_manifest(folder)
        return manifest is not None and self._is_complete(manifest, selection)

    def sizes(self, folder: str, *, answer_s: float = ANSWER_S) -> dict[str, int] | None:
        """Return the bytes of a folder's files by their path, fetching none of them; None if the store has no such
        folder. Raises Unavailable, DamagedFolder.
        """
        manifest = self._own_manifest(folder) or self._stored_manifest(folder, within_s=answer_s)
        return {file.path: file.size for file in manifest.files} if manifest is not None else None

    def knows(self, folder: str) -> bool:
        """Return whether this machine has had a copy of a sent folder, or sent it, and has not removed it since."""
        return self._own_manifest(folder) is not None

    def bring(
        self,
        folder: str,
        *,
        selection: Selection = ALL,
        answer_s: float = ANSWER_S,
        check: Callable[[], None] = lambda: None,
    ) -> bool:
        """Make a folder, or the selected files of it, the same as in the store; return False if it has none.

        `check` is called between pieces and may raise. Raises Unavailable, DamagedFolder.
        """
        if not is_working(folder) and self.is_here(folder, selection):
            self._touch(folder)
            return True
        with self._locked(f"bring {folder}"):
            if not is_working(folder) and self.is_here(folder, selection):
                return True
            manifest = self._stored_manifest(folder, within_s=answer_s)
            if manifest is None:
                return False
            known = self._own_manifest(folder)
            if known == manifest and is_working(folder) and self._exists(manifest, selection):
                return True  # what is here continues what the store has
            files = selection.of(manifest)
            missing = [file for file in files if not self._has(folder, file, known)]
            self.trim(needed=sum(file.size for file in missing))
            for file in missing:
                self._fetch(folder, file, manifest.piece_bytes, check)
            self._keep_manifest(manifest)
        return True

    def send(self, folder: str, *, check: Callable[[], None] = lambda: None) -> bool:
        """Send a folder's files, then its manifest; return False if the folder is gone. What an earlier attempt sent is
        not sent again. Of two machines that made the same folder the first one's stays.

        `check` is called between pieces and may raise. Raises Unavailable.
        """
        path = self.root / folder
        if not path.is_dir():
            return False
        with self._locked(f"send {folder}"):
            try:
                manifest = self._send_files(folder, path, check)
            except FileNotFoundError as error:
                if not path.is_dir():  # removed while it was read
                    return False
                raise Unavailable(f"{folder} changed while it was sent; it is sent again.") from error
            is_first = self.objects.write(
                f"{folder}/{MANIFEST}", manifest.dump(), within_s=ANSWER_S, is_new=not is_working(folder)
            )
            stored = manifest if is_first else self._stored_manifest(folder, within_s=ANSWER_S)
            if stored == manifest:
                self._keep_manifest(manifest)
            else:
                log.warning("%s was sent by another machine first; its copy stays", folder)
        return True

    def delete(self, path: str) -> None:
        """Delete all folders at or below a path from the store, manifests first. Raises Unavailable."""
        keys = list(self.objects.sizes(path, within_s=ANSWER_S))
        manifests = [key for key in keys if key.endswith(f"/{MANIFEST}") and f"/{PIECES}/" not in key]
        for chosen in (manifests, [key for key in keys if key not in set(manifests)]):
            for first in range(0, len(chosen), 500):
                self.objects.delete(chosen[first : first + 500], within_s=ANSWER_S)

    def forget(self, path: str) -> None:
        """Forget the manifests of the copies at or below a path, whose files the caller deletes."""
        for folder in self._own_folders():
            if folder == path or folder.startswith(f"{path}/"):
                self._manifest_file(folder).unlink(missing_ok=True)

    def list_folders(self, path: str) -> list[str]:
        """Return the folders below a path that the store has. Raises Unavailable."""
        keys = self.objects.sizes(path, within_s=ANSWER_S)
        return sorted(
            key.removesuffix(f"/{MANIFEST}")
            for key in keys
            if key.endswith(f"/{MANIFEST}") and f"/{PIECES}/" not in key
        )

    @contextmanager
    def pinned(self, folders: Iterable[str]) -> Iterator[None]:
        """Keep copies at or below these folders while the block runs, in whichever process it does."""
        with ExitStack() as stack:
            for folder in folders:
                handle = os.open(self._lock_file(f"pin {folder}"), os.O_RDWR | os.O_CREAT, 0o600)
                stack.callback(os.close, handle)
                fcntl.flock(handle, fcntl.LOCK_SH)
            yield

    def trim(self, *, needed: int = 0) -> int:
        """Remove the copies used longest ago until `needed` more bytes fit; return the bytes removed. Copies that were
        not sent, are pinned or were used just now stay.
        """
        copies: list[tuple[float, str, int]] = []
        for folder in self._own_folders():
            if (manifest := self._own_manifest(folder)) is None:
                continue
            with suppress(FileNotFoundError):
                copies.append((self._manifest_file(folder).stat().st_mtime, folder, manifest.num_bytes))
        for leftover in (self._state / "incoming").iterdir():
            with suppress(FileNotFoundError):  # another process has just finished it
                if time.time() - leftover.stat().st_mtime > KEEP_INCOMING_S:
                    leftover.unlink()
        excess = sum(size for _, _, size in copies) + needed - self.limit_bytes
        removed = 0
        for used_at, folder, size in sorted(copies):
            if removed >= excess:
                break
            if time.time() - used_at >= self.idle_s and not self._is_pinned(folder):
                self._manifest_file(folder).unlink(missing_ok=True)
                self._remove_files(folder)
                removed += size
        return removed

    def _remove_files(self, folder: str) -> None:
        path = self.root / folder
        if not is_working(folder):
            shutil.rmtree(path, ignore_errors=True)
            return
        for file in list_files(path, deep=False):
            file.unlink(missing_ok=True)

    def _is_pinned(self, folder: str) -> bool:
        names = folder.split("/")
        for count in range(2, len(names) + 1):
            file = self._lock_file(f"pin {'/'.join(names[:count])}")
            if not file.exists():
                continue
            handle = os.open(file, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            finally:
                os.close(handle)
        return False

    def _send_files(self, folder: str, path: Path, check: Callable[[], None]) -> Manifest:
        stored = {
            key.rpartition("/")[2]: size
            for key, size in self.objects.sizes(f"{folder}/{PIECES}", within_s=ANSWER_S).items()
        }

        def put(piece: bytes, digest: str) -> None:
            key = f"{folder}/{PIECES}/{digest}"
            self.objects.write(key, piece, within_s=_time_for(len(piece)))

        files = []
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for file in list_files(path, deep=not is_working(folder)):
                hasher, pieces, size, puts = hashlib.sha256(), [], 0, []
                for piece in iter_pieces(file, piece_bytes=self.piece_bytes):
                    check()
                    hasher.update(piece)
                    digest = digest_of(piece)
                    pieces.append(digest)
                    size += len(piece)
                    if stored.get(digest) != len(piece):
                        puts.append(pool.submit(put, piece, digest))
                        stored[digest] = len(piece)
                        if len(puts) >= AT_ONCE:  # no more pieces in memory than are under way
                            puts.pop(0).result()
                for each in puts:
                    each.result()
                name = file.relative_to(path).as_posix()
                files.append(StoredFile(path=name, size=size, sha256=hasher.hexdigest(), pieces=tuple(pieces)))
        sizes = self.objects.sizes(f"{folder}/{PIECES}", within_s=ANSWER_S)
        manifest = Manifest(folder=folder, piece_bytes=self.piece_bytes, files=tuple(files))
        for stored_file in files:
            for _, length, digest in stored_file.spans(self.piece_bytes):
                if sizes.get(f"{folder}/{PIECES}/{digest}") != length:
                    raise Unavailable(f"The store has lost a piece of {folder}/{stored_file.path} after it was sent.")
        return manifest

    def _fetch(self, folder: str, file: StoredFile, piece_bytes: int, check: Callable[[], None]) -> None:
        """Fetch a file beside its place, but for the pieces that are there already, and give it its name when all are
        right.
        """
        beside = self._state / "incoming" / digest_of(f"{folder}/{file.path}/{file.sha256}".encode())
        handle = os.open(beside, os.O_RDWR | os.O_CREAT, 0o600)

        def fetch(span: tuple[int, int, str]) -> None:
            start, length, digest = span
            check()
            if digest_of(os.pread(handle, length, start)) == digest:
                return
            try:
                data = self.objects.read(f"{folder}/{PIECES}/{digest}", within_s=_time_for(length))
            except NotFound as error:
                raise DamagedFolder(f"The store has lost a piece of {folder}/{file.path}.", remedy=REMEDY) from error
            if digest_of(data) != digest:
                raise DamagedFolder(
                    f"The bytes of {folder}/{file.path} in the store are not those of its manifest.", remedy=REMEDY
                )
            os.pwrite(handle, data, start)

        try:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                for each in pool.map(fetch, file.spans(piece_bytes)):
                    assert each is None
            os.ftruncate(handle, file.size)
            os.fsync(handle)
        finally:
            os.close(handle)
        target = self.root / folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        beside.replace(target)

    def _has(self, folder: str, file: StoredFile, known: Manifest | None) -> bool:
        """Return whether a file is here as the store has it. Files of a copy without that manifest are hashed."""
        path = self.root / folder / file.path
        try:
            if path.stat().st_size != file.size:
                return False
        except (FileNotFoundError, NotADirectoryError):
            return False
        if known is not None and file in known.files:
            return True
        hasher = hashlib.sha256()
        for piece in iter_pieces(path, piece_bytes=PIECE_BYTES):
            hasher.update(piece)
        return hasher.hexdigest() == file.sha256

    def _is_complete(self, manifest: Manifest, selection: Selection) -> bool:
        folder = self.root / manifest.folder
        try:
            return all((folder / file.path).stat().st_size == file.size for file in selection.of(manifest))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _exists(self, manifest: Manifest, selection: Selection) -> bool:
        return all((self.root / manifest.folder / file.path).is_file() for file in selection.of(manifest))

    def _stored_manifest(self, folder: str, *, within_s: float) -> Manifest | None:
        try:
            data = self.objects.read(f"{folder}/{MANIFEST}", within_s=within_s)
        except NotFound:
            return None
        return read_manifest(data, folder=folder)

    def _own_manifest(self, folder: str) -> Manifest | None:
        try:
            return read_manifest(self._manifest_file(folder).read_bytes(), folder=folder)
        except (FileNotFoundError, DamagedFolder):
            return None

    def _keep_manifest(self, manifest: Manifest) -> None:
        file = self._manifest_file(manifest.folder)
        beside = file.with_suffix(".partial")
        beside.write_bytes(manifest.dump())
        beside.replace(file)
        self._touch(manifest.folder)

    def _own_folders(self) -> list[str]:
        return sorted(unquote(file.stem) for file in (self._state / "manifests").glob("*.json"))

    def _touch(self, folder: str) -> None:
        now = time.time_ns()  # the file system's own clock is coarser
        try:
            os.utime(self._manifest_file(folder), ns=(now, now))
        except FileNotFoundError:
            return

    def _manifest_file(self, folder: str) -> Path:
        return self._state / "manifests" / f"{quote(folder, safe='')}.json"

    def _lock_file(self, name: str) -> Path:
        return self._state / "locks" / quote(name, safe="")

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Do what another process of this machine does with the same folder after it, not beside it."""
        handle = os.open(self._lock_file(name), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _time_for(num_bytes: int) -> float:
    return ANSWER_S + num_bytes / SLOWEST_BYTES_PER_S
