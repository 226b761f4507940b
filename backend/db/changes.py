"""Notice at no cost that a key or an account may have changed, so that what was read of it counts until then.

SQLite counts commits of others per connection (PRAGMA data_version, about ten microseconds). PostgreSQL notifies:
triggers on keys and accounts send `roundhouse_keys` within the transaction that changes them.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from typing import Any, Protocol

from sqlalchemy import text

from backend.db.engine import Database

logger = logging.getLogger(__name__)
CHANNEL = "roundhouse_keys"
PROBE_CHANNEL = "roundhouse_probe"
AGAIN_S = 1.0
PROBED_AGAIN_S = 60.0
WAIT_S = 5.0


class Unannounced(Exception):
    """Notifications do not arrive: a proxy gives this session to others, as PgBouncer's transaction pooling does."""


class Changes(Protocol):
    """Counts changes. Never blocks."""

    def version(self) -> int | None:
        """Return a number that differs once a key or an account has changed; None while that can't be known."""

    def close(self) -> None:
        """Free the connection."""


def watch_changes(db: Database) -> Changes:
    """Return what counts the changes of keys and accounts in a database."""
    path = db.engine.url.database
    if db.is_sqlite:
        return SqliteChanges(path) if path and path != ":memory:" else Unknown()
    return PostgresChanges(db)


class Unknown:
    """Knows of no change, so everything is read again."""

    def version(self) -> int | None:
        """Return None."""
        return None

    def close(self) -> None:
        """Hold nothing."""


class SqliteChanges:
    """Counts the commits of every other connection, in this process and in others."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    def version(self) -> int | None:
        """Return SQLite's data_version, None where the file can't be read at once."""
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = sqlite3.connect(
                        f"file:{self._path}?mode=ro", uri=True, timeout=0, check_same_thread=False
                    )
                return int(self._connection.execute("PRAGMA data_version").fetchone()[0])
            except sqlite3.Error:
                return None

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


class PostgresChanges:
    """Counts notifications, on a thread with a connection of its own. Without that connection nothing is known."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._count: int | None = None
        self._seen = 0
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def version(self) -> int | None:
        """Return the number of changes since the start, None while the server is not connected."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="key-changes", daemon=True)
            self._thread.start()
        return self._count

    def close(self) -> None:
        """End the thread within a few seconds."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.is_set():
            again_s = AGAIN_S
            try:
                self._listen()
            except Unannounced:
                again_s = PROBED_AGAIN_S
                logger.warning("Changes of keys are not announced through this proxy; keys are read at every request.")
            except Exception as error:  # the driver's errors and those of the network; the thread must outlive them
                logger.warning(
                    "Changes of keys are not announced (%s); keys are read at every request.", type(error).__name__
                )
            self._count = None
            self._closed.wait(again_s)

    def _listen(self) -> None:
        pooled = self._db.engine.raw_connection()
        pooled.detach()
        connection: Any = pooled.dbapi_connection
        try:
            connection.autocommit = True
            self._probe(connection)
            connection.execute(f"LISTEN {CHANNEL}")
            while not self._closed.is_set():
                self._seen += 1
                self._count = self._seen
                if not list(connection.notifies(timeout=WAIT_S, stop_after=1)):
                    connection.execute("SELECT 1")  # a server that vanished without a word is noticed
        finally:
            connection.close()  # detached: the pool closes it only where it could be reset

    def _probe(self, connection: Any) -> None:
        """Let another connection notify this one. Raises Unannounced if that does not arrive."""
        connection.execute(f"LISTEN {PROBE_CHANNEL}")
        with self._db.write() as session:
            session.execute(text(f"NOTIFY {PROBE_CHANNEL}"))
        if all(one.channel != PROBE_CHANNEL for one in connection.notifies(timeout=WAIT_S, stop_after=1)):
            raise Unannounced
        connection.execute(f"UNLISTEN {PROBE_CHANNEL}")
