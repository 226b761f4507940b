"""Artifacts: datasets, tokenizers, checkpoints and job folders under one root. Rows store paths relative to it. The
root is a local folder or a shared mount; or, with a store, this machine's cache of what all machines share.
"""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from backend.domain.data.token_folders import FOLDER as TOKENS
from backend.domain.data.token_folders import MANIFEST, Manifest
from backend.domain.jobs.artifact_folders import folder_of, is_working
from backend.domain.wording import format_bytes
from backend.errors import InvalidInput, Unavailable
from backend.infra.store.folders import STATE, DamagedFolder, FileSelection, FolderStore, NotNow, RemoteReader
from backend.infra.store.objects import RememberedOutage, StoreKeys, open_objects
from backend.infra.store.outbox import Entry, Outbox

PAGE_ANSWER_S = 1.5
"""A page waits this long for a store to answer."""
SMALL_BYTES = 64 * 2**20
"""More than any tokenizer, less than the weights of any network that is worth leaving out."""
READ_BYTES = 2**20
"""Bytes of a file that is read where it lies which are fetched at once."""
TOKENS_OF = "tokens-of"
"""Path that stands for the tokens of the rows whose hash follows, for their deletion."""


class Artifacts:
    """The artifacts' root. No stored path may leave it.

    With a `store`, what is read by its path is brought first, and what is sent or removed is noted in the `outbox`;
    `is_used` says whether the installation uses a path that was removed again.
    """

    def __init__(
        self,
        root: Path,
        *,
        url: str | None = None,
        keys: StoreKeys | None = None,
        cache_gb: float = 0,
        stream_gb: float = 0,
        keep_free_bytes: int = 0,
        is_used: Callable[[str], bool] = lambda path: False,
    ) -> None:
        self.root = root.resolve()
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.store: FolderStore | None = None
        self.outbox: Outbox | None = None
        if url is not None:
            objects = open_objects(url, keys, memory=self.root / STATE)
            limit_bytes = int(cache_gb * 1e9)
            self.store = FolderStore(
                self.root,
                objects,
                limit_bytes=limit_bytes,
                keep_free_bytes=keep_free_bytes,
                stream_bytes=int(stream_gb * 1e9),
            )
            self.outbox = Outbox(self.store, is_used=is_used, meant_by=self._meant_by)
        self._patience = RememberedOutage()

    def path(self, relative: str) -> Path:
        """Return the absolute path of a stored path: with a store, of the copy here, which is brought if it is missing.

        Raises InvalidInput if it leaves the root, Unavailable if a store that does not answer has the only copy.
        """
        full = self._inside(relative)
        self._bring(full, limit_bytes=None)
        return full

    def small_files(self, relative: str) -> Path:
        """Return the path of a folder whose small files are here: cards, configs, templates and tokenizers, without the
        weights of a checkpoint. Raises as `path` does.
        """
        full = self._inside(relative)
        self._bring(full, limit_bytes=SMALL_BYTES)
        return full

    @contextmanager
    def opened(self, relative: str) -> Iterator[BinaryIO]:
        """Open a stored file to read some of it: the copy here, which is brought if it is missing and small, or a large
        file in the store, of which only what is read is fetched.

        Raises FileNotFoundError if there is none, and as `path` does.
        """
        full, folder = self._inside(relative), folder_of(relative)
        if self.store is not None and folder is not None and not full.exists():
            self._patience.raise_if_down()
            with self._noting_failures():
                name = full.relative_to(self.root / folder).as_posix()
                remote = self.store.remote_file(folder, name, answer_s=PAGE_ANSWER_S)
            if remote is not None and remote.file.size > SMALL_BYTES:
                with io.BufferedReader(RemoteReader(remote), READ_BYTES) as reader, self._noting_failures():
                    yield reader
                return
        with self.path(relative).open("rb") as file:
            yield file

    def sizes(self, relative: str) -> dict[str, int]:
        """Return the bytes of a folder's files by their path in it, in order, fetching none of them."""
        full = self._inside(relative)
        if self.store is not None and folder_of(relative) == relative and not is_working(relative):
            is_known = self.store.knows(relative)  # though perhaps without its weights
            if not is_known and not full.is_dir():
                self._patience.raise_if_down()
            if is_known or not full.is_dir():
                with self._noting_failures():
                    return self.store.sizes(relative, answer_s=PAGE_ANSWER_S) or {}
        files = sorted(path for path in full.rglob("*") if path.is_file())
        return {path.relative_to(full).as_posix(): path.stat().st_size for path in files}

    def _bring(self, full: Path, *, limit_bytes: int | None) -> None:
        relative = full.relative_to(self.root).as_posix()
        folder = folder_of(relative)
        if self.store is None or self.outbox is None or folder is None:
            return
        if is_working(folder) and full.exists() and (self.outbox.waits([folder]) or self.store.is_pinned(folder)):
            return  # a job of this machine writes it
        selection = FileSelection(relative.removeprefix(folder).strip("/") or None, limit_bytes)
        try:
            if is_working(folder) or not self.store.is_here(folder, selection):
                self._patience.raise_if_down()
            with self._noting_failures():
                is_stored = self.store.bring(folder, selection=selection, answer_s=PAGE_ANSWER_S)
        except Unavailable:
            is_part = self.store.knows(folder) and not is_working(folder)
            if is_part or not full.exists():
                raise
            return
        if not is_stored and self.store.knows(folder):
            raise Unavailable(f"{folder} was deleted from the store.", remedy="Reload the page.")

    @contextmanager
    def _noting_failures(self) -> Iterator[None]:
        try:
            yield
        except NotNow:
            raise
        except Unavailable:
            self._patience.note_failure()
            raise

    def send(self, relative: str) -> Entry:
        """Send the folder of a stored path to the store soon, if there is one; return its entry in the outbox."""
        folder = folder_of(relative)
        return self.outbox.send(folder) if self.outbox is not None and folder is not None else None

    def send_unsent(self, folders: Iterable[str]) -> None:
        """Send the folders that were made here and are in no store as far as this machine knows."""
        if self.store is None:
            return
        for folder in folders:
            if (self.root / folder).is_dir() and not self.store.knows(folder):
                self.send(folder)

    def start_sending(self) -> None:
        """Send what waits since this machine was stopped, from now on."""
        if self.outbox is not None:
            self.outbox.start()

    def finish_sending(self, *, within_s: float, is_last: bool = False) -> None:
        """Wait a while for what this process has added, before it ends. The rest is sent by the machine's next one; if
        this may be its last, a store that is down is waited for.
        """
        if self.outbox is not None:
            self.outbox.finish(within_s=within_s, is_patient=is_last)

    def _inside(self, relative: str) -> Path:
        full = (self.root / relative).resolve()
        if not full.is_relative_to(self.root):
            raise InvalidInput(f"The path {relative!r} leaves the artifacts folder.")
        return full

    def relative(self, path: Path) -> str:
        """Return a path relative to the root, as rows store it."""
        return path.resolve().relative_to(self.root).as_posix()

    def folder(self, *parts: str) -> Path:
        """Return a folder below the root, creating it if needed."""
        full = self._inside("/".join(parts))
        full.mkdir(parents=True, exist_ok=True)
        return full

    def job_folder(self, job_id: str) -> Path:
        """Return the folder of a job, kept between attempts."""
        return self.folder("jobs", job_id)

    def free_bytes(self) -> int:
        """Return the disk space left under the root."""
        return shutil.disk_usage(self.root).free

    def disk_share(self) -> float:
        """Return the share in use of what the disk under the root has for users, as `df` does: what is reserved for the
        system is neither used nor free.
        """
        usage = shutil.disk_usage(self.root)
        return usage.used / (usage.used + usage.free)

    def require_free(self, needed: int, *, keep: int, purpose: str) -> None:
        """Raise Unavailable unless `needed` bytes fit and `keep` bytes stay free."""
        free = self.free_bytes()
        if free - needed < keep:
            raise Unavailable(
                f"{purpose} needs {format_bytes(needed)}, and only {format_bytes(free)} are free under {self.root}.",
                remedy="Delete checkpoints or datasets you no longer need, or move ROUNDHOUSE_HOME to a larger disk.",
            )

    def remove(self, relative: str) -> None:
        """Delete a folder or file below the root, if it exists, and soon from the store."""
        full = self._inside(relative)
        if full == self.root:
            raise InvalidInput("The artifacts folder itself can't be deleted.")
        self.note_removed(full.relative_to(self.root).as_posix())
        if full.is_dir():
            shutil.rmtree(full)
        elif full.exists():
            full.unlink()

    def note_removed(self, relative: str) -> None:
        """Delete what a job has deleted here from the store too, soon."""
        if self.store is not None and self.outbox is not None and folder_of(relative) is not None:
            self.store.forget(relative)
            self.outbox.delete(relative)

    def note_rows_removed(self, content_hash: str) -> None:
        """Delete the tokens of rows by their hash from the store, soon, whichever machine has made them."""
        if self.outbox is not None:
            self.outbox.delete(f"{TOKENS_OF}/{content_hash}")

    def _meant_by(self, path: str) -> list[str]:
        """Return the paths in the store that are to be deleted with an entry of the outbox."""
        head, _, content_hash = path.partition("/")
        if head != TOKENS_OF:
            return [path]
        assert self.store is not None
        return [folder for folder in self.store.list_folders(TOKENS) if self._rows_of(folder) == content_hash]

    def _rows_of(self, tokens: str) -> str | None:
        """Return the hash of the rows of which tokens in the store were made; None for what can't be read."""
        assert self.store is not None
        try:
            remote = self.store.remote_file(tokens, MANIFEST)
            if remote is None or remote.file.size > SMALL_BYTES:
                return None
            data = remote.read(0, remote.file.size)
            if hashlib.sha256(data).hexdigest() != remote.file.sha256:
                return None
            return str(Manifest.read(data.decode()).identity.get("dataset"))
        except (DamagedFolder, ValueError):  # damaged, or being deleted by another machine
            return None
