"""Locks of folders that several processes and machines share."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def try_lock(file: Path) -> Iterator[bool]:
    """Hold a lock while the block runs; yield False if another process has it. It ends with the process. Raises OSError
    for a file system without locks.
    """
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(handle)


def is_locked(file: Path) -> bool:
    """Return whether a process holds a lock. Raises OSError for a file system without locks."""
    if not file.exists():
        return False
    with try_lock(file) as is_free:
        return not is_free
