"""Recognise a damaged SQLite file: overwritten pages, a truncated file, or one that is no database at all."""

from __future__ import annotations

import contextlib
import shlex
import sqlite3
import time
from pathlib import Path

from sqlalchemy.exc import DBAPIError

CHECK_S = 10.0
"""Time of a check: what a larger file has behind the pages read by then stays unchecked."""
OPCODES = 1000
"""Steps of SQLite between two looks at the clock."""
DAMAGE_CODES = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
RESTORE = (
    "An operator restores a backup: `roundhouse doctor` names the file and the commands (docs/operation.md, A damaged"
    " database)."
)


def how_to_restore(path: Path | None) -> str:
    """Return the commands that put the file of a backup in the place of a damaged one; where it is unknown, where they
    stand.
    """
    if path is None:
        return RESTORE
    file = shlex.quote(str(path.absolute()))
    return (
        "Restore a backup. In its folder: `roundhouse down`, then"
        f" `mkdir damaged && mv {file}* damaged && tar xzOf backup.tgz ./models.db > {file}`"
        " (docs/operation.md, A damaged database)."
    )


def is_damage(error: BaseException | None) -> bool:
    """Return whether an error of sqlite3, or of SQLAlchemy around one, says that the file is damaged."""
    if isinstance(error, DBAPIError):
        error = error.orig
    if not isinstance(error, sqlite3.DatabaseError):
        return False
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return code & 0xFF in DAMAGE_CODES or "Could not decode to UTF-8" in str(error)


def find_damage(path: Path, *, within_s: float = CHECK_S) -> str | None:
    """Return the first fault of a file, by SQLite's quick_check, None if there is none or time ran out before it.

    Creates a missing file. Raises sqlite3.OperationalError for a file that can't be opened or is locked.
    """
    with contextlib.closing(sqlite3.connect(path, timeout=3)) as connection:
        deadline = time.monotonic() + within_s
        connection.set_progress_handler(lambda: time.monotonic() > deadline, OPCODES)
        try:
            (result,) = connection.execute("pragma quick_check(1)").fetchone()
        except sqlite3.DatabaseError as error:
            if is_damage(error):
                return str(error)
            if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                return None
            raise
    return None if result == "ok" else str(result).splitlines()[-1]
