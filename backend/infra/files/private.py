"""Permissions of an installation's files: mode 0600 in folders of mode 0700."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

UMASK = 0o077
OWN_FOLDERS = ("artifacts", "broker", "logs", "run")
DATABASE_SUFFIXES = ("", "-wal", "-shm", "-journal")


def set_private_umask() -> None:
    """Set the umask of this process and its children so that their files are private."""
    os.umask(UMASK)


def make_private(path: Path) -> None:
    """Remove the permissions of group and others from a file or folder. Does nothing for one that is missing, a link or
    another user's.
    """
    with contextlib.suppress(FileNotFoundError, PermissionError):
        status = path.lstat()
        if not stat.S_ISLNK(status.st_mode) and status.st_mode & UMASK:
            path.chmod(stat.S_IMODE(status.st_mode) & ~UMASK)


def tighten_home(home: Path) -> None:
    """Make a home folder of an earlier version private: the files right below it and the folders that an installation
    writes.

    The home folder's own mode changes last and marks completion, so that later starts skip the walk. A sticky home
    folder is shared and keeps its mode.
    """
    status = home.stat()
    if not status.st_mode & UMASK:
        return
    for entry in home.iterdir():
        if entry.is_symlink():
            continue
        if entry.is_file():
            make_private(entry)
        elif entry.name in OWN_FOLDERS:
            _tighten_tree(entry)
    if not status.st_mode & stat.S_ISVTX:
        make_private(home)


def tighten_database(path: Path) -> None:
    """Make a SQLite file and its side files private."""
    for suffix in DATABASE_SUFFIXES:
        make_private(path.with_name(path.name + suffix))


def _tighten_tree(folder: Path) -> None:
    for inside, folders, files in os.walk(folder, onerror=None):
        for name in (*folders, *files):
            make_private(Path(inside) / name)
    make_private(folder)
