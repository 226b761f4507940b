"""Folders of a store and their copies on this machine: brought with every hash checked, sent with the manifest last,
and removed by age where they take more than the cache may hold.

A folder's manifest has its files with size and SHA-256; a folder without one does not exist for other machines.
`root/.store` holds what this machine knows: the manifests of its complete copies, whose time is that of the last use,
files that are being fetched, and locks.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import quote, unquote

from pydantic import Field, ValidationError, field_validator, model_validator

from backend.domain.jobs.artifact_folders import folder_of, is_working
from backend.domain.validation import ReadRecord
from backend.domain.wording import format_bytes
from backend.errors import Conflict, InvalidInput, NotFound, Unavailable
from backend.infra.files.locks import remove_old_locks, take_lock, try_lock
from backend.infra.store.objects import Objects

PIECE_BYTES = 32 * 2**20
"""Files are stored in pieces of this size, each under the name of its SHA-256: a broken transfer continues with the
next piece, and a late writer overwrites nothing.
"""
MANIFEST = "manifest.json"
PIECES = "pieces"
LARGEST_PIECE = 2**30
LARGEST_FILE = 2**44
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class DamagedFolder(Conflict):
    """A folder of the store whose bytes are not those of its manifest."""


class StoredFile(ReadRecord):
    """A file: its path in the folder, size, SHA-256 and the SHA-256 of its pieces."""

    path: str
    size: int = Field(ge=0, le=LARGEST_FILE)
    sha256: Sha256
    pieces: tuple[Sha256, ...]

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        names = PurePosixPath(path).parts
        if not names or names[0] == "/" or ".." in names or "\x00" in path or "/".join(names) != path:
            raise ValueError("leaves its folder")
        return path

    def pieces_of(self, begin: int, end: int, piece_bytes: int) -> Iterator[tuple[str, int, int]]:
        """Return the SHA-256 of each piece that has bytes from `begin` to before `end`, and where they lie in it."""
        for number in range(begin // piece_bytes, -(-end // piece_bytes)):
            start = number * piece_bytes
            yield self.pieces[number], max(0, begin - start), min(piece_bytes, end - start)

    def spans(self, piece_bytes: int) -> Iterator[tuple[int, int, str]]:
        """Return offset, length and SHA-256 of each piece."""
        for number, digest in enumerate(self.pieces):
            start = number * piece_bytes
            yield start, min(piece_bytes, self.size - start), digest


class FolderManifest(ReadRecord):
    """The files of a folder."""

    folder: str
    piece_bytes: int = Field(default=PIECE_BYTES, gt=0, le=LARGEST_PIECE)
    files: tuple[StoredFile, ...]

    @model_validator(mode="after")
    def _has_all_pieces(self) -> FolderManifest:
        paths = {file.path for file in self.files}
        above = {str(folder) for path in paths for folder in PurePosixPath(path).parents}
        if len(paths) < len(self.files) or paths & above:
            raise ValueError("two files have one place")
        for file in self.files:
            if len(file.pieces) != -(-file.size // self.piece_bytes):
                raise ValueError(f"{file.path} has {file.size} bytes in {len(file.pieces)} pieces")
        return self

    def dump(self) -> bytes:
        """Return the stored form."""
        return self.model_dump_json().encode()


def read_manifest(data: bytes, *, folder: str) -> FolderManifest:
    """Read a stored manifest. Raises DamagedFolder for anything else, and for the manifest of another folder."""
    try:
        manifest = FolderManifest.model_validate_json(data)
    except ValidationError as error:
        raise DamagedFolder(f"The manifest of {folder} in the store is damaged.", remedy=REMEDY) from error
    if manifest.folder != folder:
        raise DamagedFolder(f"The store holds the manifest of {manifest.folder} under {folder}.", remedy=REMEDY)
    return manifest


REMEDY = "Restore the store's folder from a backup, or make the data again."


def list_exchanged(folder: Path, *, deep: bool) -> list[Path]:
    """Return the files of a folder that are exchanged: none that is hidden or being written, no link out of it."""
    files = sorted(path for path in (folder.rglob("*") if deep else folder.glob("*")) if path.is_file())
    root = folder.resolve()
    return [
        path
        for path in files
        if not any(name.startswith(".") for name in path.relative_to(folder).parts)
        and path.resolve().is_relative_to(root)
    ]


def iter_pieces(path: Path, *, piece_bytes: int) -> Iterator[bytes]:
    """Read a file in pieces."""
    with path.open("rb") as file:
        while piece := file.read(piece_bytes):
            yield piece


def digest_of(data: bytes) -> str:
    """Return the SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


log = logging.getLogger(__name__)

STATE = ".store"
AT_ONCE = 4
"""Pieces under way at once, each held in memory."""
ANSWER_S = 20.0
ANSWER_BYTES = 5 * 2**20
"""A piece may take one more answer's time for each of these bytes."""
LOOK_EVERY_S = 0.05
LONGEST_NAME = 240
KEEP_INCOMING_S = 86_400.0
"""Pieces of a fetch that broke off are kept so long, and so are locks that are free."""
IDLE_S = 600.0
"""A copy that was used more recently is not removed: a page may be reading it."""

ROOM_REMEDY = "Free disk space, move ROUNDHOUSE_HOME to a larger disk, or lower ROUNDHOUSE_ARTIFACTS_CACHE_GB."


class NotNow(Unavailable):
    """This machine, and not the store, can't have a folder now."""


class NoRoom(NotNow):
    """The disk of this machine is full."""


@dataclass(frozen=True)
class FileSelection:
    """Files of a folder: the file or subfolder `only`, none larger than `limit_bytes`, all but the file `without`."""

    only: str | None = None
    limit_bytes: int | None = None
    without: str | None = None

    def of(self, manifest: FolderManifest) -> list[StoredFile]:
        """Return the selected files of a manifest."""
        return [
            file
            for file in manifest.files
            if (self.only in (None, file.path) or file.path.startswith(f"{self.only}/"))
            and (self.limit_bytes is None or file.size <= self.limit_bytes)
            and file.path != self.without
        ]


ALL = FileSelection()


@dataclass(frozen=True)
class UncopiedFile:
    """A file in the store, read where it lies. Each request for a few bytes may take `answer_s`."""

    objects: Objects
    folder: str
    file: StoredFile
    piece_bytes: int
    answer_s: float = ANSWER_S

    def read(self, begin: int, end: int) -> bytes:
        """Return bytes, whose hash is for the caller to check. Raises Unavailable, DamagedFolder."""
        parts = []
        for digest, first, last in self.file.pieces_of(begin, end, self.piece_bytes):
            try:
                data = self.objects.read(
                    f"{self.folder}/{PIECES}/{digest}",
                    within_s=_time_for(last - first, self.answer_s),
                    span=(first, last),
                )
            except NotFound as error:
                raise DamagedFolder(
                    f"The store has lost a piece of {self.folder}/{self.file.path}.", remedy=REMEDY
                ) from error
            parts.append(data)
        return b"".join(parts)


class RemoteReader(io.RawIOBase):
    """A file in the store as a file object that can seek. Its bytes are not checked by their hash, which is that of
    pieces larger than what is read here: what is shown may come of them, and nothing is made of them.
    """

    def __init__(self, file: UncopiedFile) -> None:
        self._file, self._position = file, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position; return it."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.file.size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes. Raises as `UncopiedFile.read` does."""
        end = min(self._position + len(buffer), self._file.file.size)
        data = self._file.read(self._position, end) if end > self._position else b""
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class FolderStore:
    """The folders of a store, with copies below `root` that take about `limit_bytes` at most."""

    def __init__(
        self,
        root: Path,
        objects: Objects,
        *,
        limit_bytes: int,
        keep_free_bytes: int = 0,
        idle_s: float = IDLE_S,
        piece_bytes: int = PIECE_BYTES,
        stream_bytes: int = 0,
    ) -> None:
        """Take the store, and how many bytes of the disk stay free. Files of more than `stream_bytes` are read where
        they lie by those who can; 0: none are.
        """
        self.stream_bytes = stream_bytes
        self.root, self.objects = root, objects
        self.limit_bytes, self.keep_free_bytes = limit_bytes, keep_free_bytes
        self.idle_s, self.piece_bytes = idle_s, piece_bytes
        self._state = root / STATE
        self.outbox = self._state / "outbox"
        """Where the folders that wait to be sent are noted."""
        for name in ("manifests", "incoming", "locks", "outbox", "blocks"):
            (self._state / name).mkdir(parents=True, exist_ok=True, mode=0o700)

    def is_here(self, folder: str, selection: FileSelection = ALL) -> bool:
        """Return whether this machine has a copy of a sent folder, or of some files of it, without asking the store."""
        manifest = self._own_manifest(folder)
        return manifest is not None and not self._mark_file(folder).exists() and self._is_complete(manifest, selection)

    def sizes(self, folder: str, *, answer_s: float = ANSWER_S) -> dict[str, int] | None:
        """Return the bytes of a folder's files by their path, fetching none of them; None if the store has no such
        folder. Raises Unavailable, DamagedFolder.
        """
        manifest = self._own_manifest(folder) or self._stored_manifest(folder, within_s=answer_s)
        return {file.path: file.size for file in manifest.files} if manifest is not None else None

    def remote_file(self, folder: str, path: str, *, answer_s: float = ANSWER_S) -> UncopiedFile | None:
        """Return a file to read where it lies, if the store has it. Raises Unavailable, DamagedFolder."""
        manifest = self._own_manifest(folder) or self._stored_manifest(folder, within_s=answer_s)
        if manifest is None:
            return None
        file = next((file for file in manifest.files if file.path == path), None)
        return None if file is None else UncopiedFile(self.objects, folder, file, manifest.piece_bytes, answer_s)

    @property
    def blocks(self) -> Path:
        """The folder of what was read of files where they lie."""
        return self._state / "blocks"

    def knows(self, folder: str) -> bool:
        """Return whether this machine has had a copy of a sent folder, or sent it, and has not removed it since."""
        return self._own_manifest(folder) is not None

    def bring(
        self,
        folder: str,
        *,
        selection: FileSelection = ALL,
        answer_s: float = ANSWER_S,
        check: Callable[[], None] = lambda: None,
    ) -> bool:
        """Make a folder, or the selected files of it, the same as in the store; return False if it has none.

        `check` is called between pieces and may raise. Raises Unavailable, DamagedFolder, InvalidInput for a name that
        no folder has.
        """
        _require_name(folder)
        if not is_working(folder) and self.is_here(folder, selection):
            self._touch(folder)
            return True
        with self._locked(f"bring {folder}", within_s=answer_s):
            if not is_working(folder) and self.is_here(folder, selection):
                return True
            manifest = self._stored_manifest(folder, within_s=answer_s)
            if manifest is None:
                return False
            known = None if self._mark_file(folder).exists() else self._own_manifest(folder)
            if known == manifest and is_working(folder) and self._exists(manifest, selection):
                self._touch(folder)
                return True  # the local folder is ahead of the store
            missing = [file for file in selection.of(manifest) if not self._has(folder, file, known)]
            self._make_room(folder, sum(file.size for file in missing))
            try:
                for file in missing:
                    self._fetch(folder, file, manifest.piece_bytes, answer_s, check)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                for file in missing:
                    self._incoming_file(folder, file).unlink(missing_ok=True)
                raise NoRoom(f"The disk under {self.root} is full.", remedy=ROOM_REMEDY) from error
            except DamagedFolder:
                if self._stored_manifest(folder, within_s=answer_s) is None:  # deleted while it was fetched
                    return False
                raise
            is_partly_old = self._mark_file(folder).exists() or (is_working(folder) and known != manifest)
            is_whole = selection == ALL or not is_partly_old
            self._put_in_place(manifest, missing, is_whole=is_whole)
        return True

    def _make_room(self, folder: str, needed: int) -> None:
        self._touch(folder)  # so that its files here are not trimmed
        self.trim(needed=needed)
        free = shutil.disk_usage(self.root).free
        if needed and free - needed < self.keep_free_bytes:
            raise NoRoom(
                f"{folder} needs {format_bytes(needed)}, and only {format_bytes(free)} are free under {self.root}.",
                remedy=ROOM_REMEDY,
            )

    def _put_in_place(self, manifest: FolderManifest, fetched: list[StoredFile], *, is_whole: bool) -> None:
        """Give fetched files their names. A mark says so meanwhile: who is killed leaves a copy that is known, and of
        which no file is trusted without its hash.
        """
        mark = self._mark_file(manifest.folder)
        mark.touch()
        self._keep_manifest(manifest)
        for file in fetched:
            target = self.root / manifest.folder / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            self._incoming_file(manifest.folder, file).replace(target)
        if is_whole:
            mark.unlink(missing_ok=True)

    def send(self, folder: str, *, check: Callable[[], None] = lambda: None) -> bool:
        """Send a folder's files, then its manifest; return False if the folder is gone. What an earlier attempt sent is
        not sent again. Of two machines that made the same folder the first one's stays.

        `check` is called between pieces and may raise. Raises Unavailable, InvalidInput.
        """
        _require_name(folder)
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
            if not manifest.files and (stored := self._stored_manifest(folder, within_s=ANSWER_S)) and stored.files:
                log.warning("%s is empty here; what the store has of it stays", folder)
                return True
            is_first = self.objects.write(
                f"{folder}/{MANIFEST}", manifest.dump(), within_s=ANSWER_S, is_new=not is_working(folder)
            )
            stored = manifest if is_first else self._stored_manifest(folder, within_s=ANSWER_S)
            if stored == manifest:
                self._keep_manifest(manifest)
                self._mark_file(folder).unlink(missing_ok=True)
            else:
                log.warning("%s was sent by another machine first; its copy stays", folder)
        return True

    def delete(self, path: str) -> None:
        """Delete all folders at or below a path from the store, manifests first. Raises Unavailable, InvalidInput."""
        folder = folder_of(path) or ""
        _require_name(folder if f"{path}/".startswith(f"{folder}/") else path)
        keys = list(self.objects.sizes(path, within_s=ANSWER_S))
        manifests = [key for key in keys if key.endswith(f"/{MANIFEST}") and f"/{PIECES}/" not in key]
        for chosen in (manifests, [key for key in keys if key not in set(manifests)]):
            for first in range(0, len(chosen), 500):
                self.objects.delete(chosen[first : first + 500], within_s=ANSWER_S)

    def forget(self, path: str) -> None:
        """Forget the manifests of the copies at or below a path, whose files the caller deletes."""
        for folder in self._own_folders():
            if folder == path or folder.startswith(f"{path}/"):
                self._forget(folder)

    def _forget(self, folder: str) -> None:
        self._manifest_file(folder).unlink(missing_ok=True)
        self._mark_file(folder).unlink(missing_ok=True)

    def list_folders(self, path: str) -> list[str]:
        """Return the folders below a path that the store has, without names that no folder has. Raises Unavailable."""
        keys = self.objects.sizes(path, within_s=ANSWER_S)
        names = [key.removesuffix(f"/{MANIFEST}") for key in keys if key.endswith(f"/{MANIFEST}")]
        return sorted(name for name in names if _is_name(name))

    @contextmanager
    def pinned(self, folders: Iterable[str]) -> Iterator[None]:
        """Keep copies at or below these folders while the block runs, in whichever process it does."""
        with ExitStack() as stack:
            for folder in folders:
                stack.callback(os.close, take_lock(self._lock_file(f"pin {folder}"), fcntl.LOCK_SH))
            yield

    def trim(self, *, needed: int = 0) -> int:
        """Remove the copies used longest ago until `needed` more bytes fit into the cache and on the disk; return the
        bytes removed. Copies that were not sent, are pinned or were used just now stay.
        """
        copies: list[tuple[float, str, int]] = []
        for folder in self._own_folders():
            if (manifest := self._own_manifest(folder)) is None:
                continue
            copies.append((self._used_at(folder), folder, self._bytes_here(manifest)))
        for leftover in (self._state / "incoming").iterdir():
            with suppress(FileNotFoundError):  # another process has just finished it
                if time.time() - leftover.stat().st_mtime > KEEP_INCOMING_S:
                    leftover.unlink()
        remove_old_locks(self._state / "locks", older_than_s=KEEP_INCOMING_S)
        excess = max(
            sum(size for _, _, size in copies) + needed - self.limit_bytes,
            needed + self.keep_free_bytes - shutil.disk_usage(self.root).free,
        )
        removed = 0
        for used_at, folder, size in sorted(copies):
            if removed >= excess:
                break
            if time.time() - used_at < self.idle_s:
                continue
            with self._unpinned(folder) as is_free:
                if is_free and self._is_sent(folder) and self._used_at(folder) == used_at:
                    self._remove_files(folder)
                    self._forget(folder)  # last: if killed before, the copy is known as incomplete
                    removed += size
        return removed

    def _bytes_here(self, manifest: FolderManifest) -> int:
        num_bytes = 0
        for file in manifest.files:
            with suppress(FileNotFoundError, NotADirectoryError):
                num_bytes += (self.root / manifest.folder / file.path).stat().st_size
        return num_bytes

    def _is_sent(self, folder: str) -> bool:
        """Return whether the store has a folder's files as they are here. A job's own folder is written again by its
        next attempt, so its files are hashed.
        """
        manifest = self._own_manifest(folder)
        if manifest is None or (self.outbox / quote(folder, safe="")).exists():
            return False
        if not is_working(folder):
            return True
        path, sent = self.root / folder, {file.path: file for file in manifest.files}
        here = [file.relative_to(path).as_posix() for file in list_exchanged(path, deep=False)]
        return all(name in sent and self._has(folder, sent[name], None) for name in here)

    def _remove_files(self, folder: str) -> None:
        path = self.root / folder
        if not is_working(folder):
            shutil.rmtree(path, ignore_errors=True)
            return
        for file in list_exchanged(path, deep=False):
            file.unlink(missing_ok=True)

    def is_pinned(self, folder: str) -> bool:
        """Return whether a job of this machine keeps a folder."""
        with self._unpinned(folder) as is_free:
            return not is_free

    @contextmanager
    def _unpinned(self, folder: str) -> Iterator[bool]:
        """Tell whether no job has pinned a folder; a job that wants to waits until the block has run."""
        names = folder.split("/")
        pins = [self._lock_file(f"pin {'/'.join(names[:count])}") for count in range(2, len(names) + 1)]
        with ExitStack() as stack:
            yield all(stack.enter_context(try_lock(pin)) for pin in pins)

    def _send_files(self, folder: str, path: Path, check: Callable[[], None]) -> FolderManifest:
        stored = {
            key.rpartition("/")[2]: size
            for key, size in self.objects.sizes(f"{folder}/{PIECES}", within_s=ANSWER_S).items()
        }

        def put(piece: bytes, digest: str) -> None:
            key = f"{folder}/{PIECES}/{digest}"
            self.objects.write(key, piece, within_s=_time_for(len(piece)))

        files = []
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for file in list_exchanged(path, deep=not is_working(folder)):
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
        manifest = FolderManifest(folder=folder, piece_bytes=self.piece_bytes, files=tuple(files))
        for stored_file in files:
            for _, length, digest in stored_file.spans(self.piece_bytes):
                if sizes.get(f"{folder}/{PIECES}/{digest}") != length:
                    raise Unavailable(f"The store has lost a piece of {folder}/{stored_file.path} after it was sent.")
        return manifest

    def _incoming_file(self, folder: str, file: StoredFile) -> Path:
        return self._state / "incoming" / digest_of(f"{folder}/{file.path}/{file.sha256}".encode())

    def _fetch(
        self, folder: str, file: StoredFile, piece_bytes: int, answer_s: float, check: Callable[[], None]
    ) -> None:
        """Fetch a file beside its place, but for the pieces that are there already."""
        beside = self._incoming_file(folder, file)
        handle = os.open(beside, os.O_RDWR | os.O_CREAT, 0o600)

        def fetch(span: tuple[int, int, str]) -> None:
            start, length, digest = span
            check()
            if digest_of(os.pread(handle, length, start)) == digest:
                return
            try:
                data = self.objects.read(f"{folder}/{PIECES}/{digest}", within_s=_time_for(length, answer_s))
            except NotFound as error:
                raise DamagedFolder(f"The store has lost a piece of {folder}/{file.path}.", remedy=REMEDY) from error
            if len(data) != length or digest_of(data) != digest:
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
        if _hash_file(beside, check) != file.sha256:
            beside.unlink()
            raise DamagedFolder(f"The pieces of {folder}/{file.path} in the store are of another file.", remedy=REMEDY)

    def _has(self, folder: str, file: StoredFile, known: FolderManifest | None) -> bool:
        """Return whether a file is here as the store has it. Files of a copy without that manifest are hashed."""
        path = self.root / folder / file.path
        try:
            if path.stat().st_size != file.size:
                return False
        except (FileNotFoundError, NotADirectoryError):
            return False
        if known is not None and file in known.files:
            return True
        return _hash_file(path) == file.sha256

    def _is_complete(self, manifest: FolderManifest, selection: FileSelection) -> bool:
        folder = self.root / manifest.folder
        try:
            return all((folder / file.path).stat().st_size == file.size for file in selection.of(manifest))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _exists(self, manifest: FolderManifest, selection: FileSelection) -> bool:
        return all((self.root / manifest.folder / file.path).is_file() for file in selection.of(manifest))

    def _stored_manifest(self, folder: str, *, within_s: float) -> FolderManifest | None:
        try:
            data = self.objects.read(f"{folder}/{MANIFEST}", within_s=within_s)
        except NotFound:
            return None
        return read_manifest(data, folder=folder)

    def _own_manifest(self, folder: str) -> FolderManifest | None:
        try:
            return read_manifest(self._manifest_file(folder).read_bytes(), folder=folder)
        except (FileNotFoundError, DamagedFolder):
            return None

    def _keep_manifest(self, manifest: FolderManifest) -> None:
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

    def _used_at(self, folder: str) -> float:
        """Return when a copy was used last; 0 if it has just been forgotten."""
        try:
            return self._manifest_file(folder).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def _manifest_file(self, folder: str) -> Path:
        return self._state / "manifests" / f"{quote(folder, safe='')}.json"

    def _mark_file(self, folder: str) -> Path:
        return self._manifest_file(folder).with_suffix(".unfinished")

    def _lock_file(self, name: str) -> Path:
        return self._state / "locks" / quote(name, safe="")

    @contextmanager
    def _locked(self, name: str, *, within_s: float | None = None) -> Iterator[None]:
        """Do what another process of this machine does with the same folder after it, not beside it. Raises NotNow if
        that takes longer.
        """
        handle, until = -1, time.monotonic() + (within_s or 0)
        while handle < 0:
            try:
                handle = take_lock(self._lock_file(name), fcntl.LOCK_EX | (0 if within_s is None else fcntl.LOCK_NB))
            except BlockingIOError as error:
                if time.monotonic() > until:
                    raise NotNow(
                        f"{name.partition(' ')[2]} is being fetched by another process of this machine.",
                        remedy="Wait until it is here.",
                    ) from error
                time.sleep(LOOK_EVERY_S)
        try:
            yield
        finally:
            os.close(handle)


def _time_for(num_bytes: int, answer_s: float = ANSWER_S) -> float:
    return answer_s * (1 + num_bytes / ANSWER_BYTES)


def _is_name(folder: str) -> bool:
    is_short = len(quote(folder, safe="")) <= LONGEST_NAME
    return is_short and "\x00" not in folder and folder_of(folder) == folder


def _require_name(folder: str) -> None:
    if not _is_name(folder):
        raise InvalidInput(f"{folder[:200]!r} is not a folder that a store holds.")


def _hash_file(path: Path, check: Callable[[], None] = lambda: None) -> str:
    hasher = hashlib.sha256()
    for piece in iter_pieces(path, piece_bytes=PIECE_BYTES):
        check()
        hasher.update(piece)
    return hasher.hexdigest()
