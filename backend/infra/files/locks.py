"""Locks of folders that several processes and machines share."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def take_lock(file: Path, how: int) -> int:
    """Return an open file that is locked as `how` says to flock; closing it ends the lock. Raises BlockingIOError for
    one that is taken, if `how` says not to wait, and OSError for a file system without locks.
    """
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, how)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), file.stat()):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # it was removed between the two


def remove_old_locks(folder: Path, *, older_than_s: float) -> None:
    """Remove the files of locks that were made longer ago and that are free."""
    for file in folder.iterdir():
        with suppress(FileNotFoundError):  # another process has just removed it
            if time.time() - file.stat().st_mtime > older_than_s:
                with try_lock(file) as is_free:
                    if is_free:
                        file.unlink()


@contextmanager
def try_lock(file: Path) -> Iterator[bool]:
    """Hold a lock while the block runs; yield False if another process has it. It ends with the process. Raises OSError
    for a file system without locks.
    """
    try:
        handle = take_lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        os.close(handle)


def is_locked(file: Path) -> bool:
    """Return whether a process holds a lock. Raises OSError for a file system without locks."""
    if not file.exists():
        return False
    with try_lock(file) as is_free:
        return not is_free
