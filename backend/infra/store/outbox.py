"""Folders that this machine has yet to send and paths that it has yet to delete, one small file each, so that a killed
process forgets nothing and a store that is down only makes them wait.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, unquote

from backend.errors import Unavailable
from backend.infra.store.folders import FolderStore

log = logging.getLogger(__name__)

SEND, DELETE = "send", "delete"
Entry = tuple[int, int] | None
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
LOOK_EVERY_S = 2.0
"""Other processes of the machine add to the outbox too."""


class _Changed(Exception):
    """The entry was replaced while it was worked on."""


class Outbox:
    """Entries of all processes of a machine, oldest first; each process that has added one works on all of them."""

    def __init__(
        self,
        store: FolderStore,
        *,
        is_used: Callable[[str], bool] = lambda path: False,
        meant_by: Callable[[str], Collection[str]] = lambda path: (path,),
    ) -> None:
        """Take the store, and a function that says whether the installation uses a path again that was to be deleted,
        as when another machine imports the same rows while the deletion waits. `meant_by` returns the paths in the
        store that an entry for deletion stands for.
        """
        self._store, self._is_used, self._meant_by = store, is_used, meant_by
        self._folder = store.outbox
        self._news = threading.Event()
        self._start = threading.Lock()
        self._thread: threading.Thread | None = None
        self.problem = ""
        """Why the last attempt failed; empty after a success."""

    def send(self, folder: str) -> Entry:
        """Send a folder soon; return what this entry is known by."""
        return self._put(folder, SEND)

    def delete(self, path: str) -> None:
        """Delete a path soon, in place of what was to be sent at or below it."""
        for entry in self.entries():
            if entry.startswith(f"{path}/"):
                self._file(entry).unlink(missing_ok=True)
        self._put(path, DELETE)

    def entries(self) -> list[str]:
        """Return the paths that wait, oldest first."""
        listed: list[tuple[float, str]] = []
        for file in self._folder.glob("*"):
            try:
                listed.append((file.stat().st_mtime, unquote(file.name)))
            except FileNotFoundError:
                continue
        return [entry for _, entry in sorted(listed) if not entry.startswith(".")]

    def waits(self, folders: Collection[str]) -> bool:
        """Return whether one of these folders is still to be sent."""
        return any(self._file(folder).exists() for folder in folders)

    def start(self) -> None:
        """Work on the entries in a thread, from now on."""
        with self._start:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True, name="outbox")
                self._thread.start()
        self._news.set()

    def finish(self, *, within_s: float, is_patient: bool = False) -> None:
        """Let what this process has added be sent before it ends, unless the store is down. `is_patient`: even then."""
        until = time.monotonic() + within_s
        while self._thread is not None and self.entries() and time.monotonic() < until:
            if self.problem and not is_patient:
                return
            time.sleep(0.1)

    def empty(self) -> None:
        """Work on all entries once. Raises what failed last; a store that is down fails at once."""
        problem: Exception | None = None
        for entry in self.entries():
            try:
                self._do(entry)
            except Unavailable:
                raise
            except Exception as error:  # the other folders are still sent
                problem = error
        if problem is not None:
            raise problem

    def withdraw(self, entries: Mapping[str, Entry]) -> None:
        """Take back that folders be sent, but for those that another attempt has added again."""
        for folder, entry in entries.items():
            with self._locked():
                if entry is not None and _mark(self._file(folder)) == entry:
                    self._file(folder).unlink()

    def _work(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                self.empty()
            except Exception as error:  # one entry must not end the thread that sends all others
                if str(error) != self.problem:
                    log.warning("artifacts wait for the store: %s", error)
                self.problem = str(error)
                self._news.clear()
                threading.Event().wait(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            self.problem, pause_s = "", FIRST_PAUSE_S
            self._news.wait(LOOK_EVERY_S)
            self._news.clear()

    def _do(self, entry: str) -> None:
        file = self._file(entry)
        before = _mark(file)
        if before is None:
            return

        def check() -> None:
            if _mark(file) != before:
                raise _Changed

        try:
            if file.read_text() == DELETE:
                if not self._is_used(entry):
                    for path in self._meant_by(entry):
                        self._store.delete(path)
            else:
                self._store.send(entry, check=check)
                self._store.trim()
            with self._locked():
                check()
                file.unlink()
        except (_Changed, FileNotFoundError):
            return  # its new content is the next entry

    def _put(self, path: str, verb: str) -> Entry:
        file = self._file(path)
        beside = file.with_name(f".{file.name[-100:]}-{os.getpid()}-{threading.get_ident()}")
        beside.write_text(verb)
        entry = _mark(beside)
        with self._locked():
            beside.replace(file)
        self.start()
        return entry

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Let no process of this machine replace an entry while another takes it for done."""
        handle = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _file(self, path: str) -> Path:
        return self._folder / quote(path, safe="")


def _mark(file: Path) -> Entry:
    """Return what differs between two entries of the same name."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns
