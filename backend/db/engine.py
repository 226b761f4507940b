"""Engines and transactions for SQLite and PostgreSQL, races on unique columns, and files of SQLite that are damaged.

SQLite: WAL, foreign keys on, 30 s busy timeout, and BEGIN IMMEDIATE for writers, because a deferred transaction that
reads and then writes fails at once under contention, whatever the timeout.

Two processes may look, find nothing, and insert the same value of a unique column. SQLite has one writer at a time, so
a look inside `Database.write` holds until its insert. PostgreSQL lets both look first: `retry_races`.

A file is damaged if pages are overwritten, if it is truncated, or if it is no database at all: `find_damage`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import random
import shlex
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from pydantic_core import from_json
from sqlalchemy import Engine, create_engine, event, func, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from backend.db.base import Table, UnreadableDocument, locate, utc_now

BUSY_TIMEOUT_MS = 30_000
ERASE_TIMEOUT_MS = 500
CLOCK_S = 30.0
"""Seconds after which the server's clock is read again."""
DRIVERS = {"postgres": "postgresql+psycopg", "postgresql": "postgresql+psycopg"}
"""Default driver by URL scheme."""
PATIENCE = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
"""Options of libpq, in seconds and milliseconds: a server that vanished is noticed in seconds, not minutes."""
SESSION = "SET jit = off; SET idle_in_transaction_session_timeout = '5min'"
"""Settings of a session of PostgreSQL. Compiling a query takes longer than any of ours runs. And a process that is
frozen within a transaction would hold its rows for as long: no sweep would take back the job of one.
"""


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _ServerClock:
    """The server's time at a moment of this machine's clock of seconds since its start."""

    time: datetime
    read_at: float


class Database:
    """One engine, two kinds of transaction: `read()` and `write()`."""

    def __init__(self, url: str) -> None:
        address = make_url(url)
        address = address.set(drivername=DRIVERS.get(address.drivername, address.drivername))
        self.url = url
        self.is_sqlite = address.get_backend_name() == "sqlite"
        self.engine = _create(address, self.is_sqlite)
        writing = self.engine.execution_options(sqlite_begin="IMMEDIATE") if self.is_sqlite else self.engine
        self._reader = sessionmaker(self.engine, expire_on_commit=False)
        self._writer = sessionmaker(writing, expire_on_commit=False)
        self.is_damaged = False
        """Whether an error said that the file is damaged, since this process opened it."""
        if self.is_sqlite:
            event.listen(self.engine, "handle_error", self._notice_damage)
        self._clock: _ServerClock | None = None
        self._reads_clock = threading.Lock()

    def _notice_damage(self, context: Any) -> None:
        self.is_damaged = self.is_damaged or is_damage(context.original_exception)

    def now(self) -> datetime:
        """Return the time by which leases are given and end: that of the server, which all machines share, or this
        machine's on SQLite.

        The server is asked once in `CLOCK_S`, from then on in the background, and the time in between is that since
        the machine's start. So neither a wrong clock nor one that is set in mid-run ends a lease, and a server that
        is away stops no caller.
        """
        if self.is_sqlite:
            return utc_now()
        clock = self._clock
        if clock is None:
            with self._reads_clock:
                clock = self._clock = self._clock or self._read_clock()
        elapsed = _since_start() - clock.read_at
        if elapsed > CLOCK_S and self._reads_clock.acquire(blocking=False):
            threading.Thread(target=self._renew_clock, daemon=True, name="clock").start()
        return clock.time + timedelta(seconds=elapsed)

    def _renew_clock(self) -> None:
        try:
            self._clock = self._read_clock()
        except SQLAlchemyError as error:
            log.warning("the database's clock can't be read: %s", error)
            last, since = self._clock, _since_start()
            self._clock = last and _ServerClock(last.time + timedelta(seconds=since - last.read_at), since)
        finally:
            self._reads_clock.release()

    def _read_clock(self) -> _ServerClock:
        with self.engine.connect() as connection:
            before = _since_start()
            server_time: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
            read_at = (before + _since_start()) / 2
        return _ServerClock(server_time.astimezone(UTC), read_at)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a session that is rolled back at the end."""
        with self._located(), self._reader() as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open a session that commits at the end, or rolls back if the body raises."""
        with self._located(), self._writer() as session, session.begin():
            yield session

    @contextmanager
    def _located(self) -> Iterator[None]:
        """Name table, column and row in the error of a document that can't be read."""
        try:
            yield
        except UnreadableDocument as error:
            raise locate(error, self.engine, Table.metadata.sorted_tables) from error

    @contextmanager
    def erase(self) -> Iterator[Session]:
        """Open a session like `write` for deleting user content: SQLite overwrites it in file and write-ahead log."""
        with self.write() as session:
            if self.is_sqlite:
                session.connection().exec_driver_sql("PRAGMA secure_delete=ON")
            yield session
        if self.is_sqlite:
            connection = self.engine.raw_connection()
            try:
                cursor = connection.cursor()
                cursor.execute(f"PRAGMA busy_timeout={ERASE_TIMEOUT_MS}")
                # a concurrent reader leaves the old pages until the next checkpoint
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
            finally:
                connection.close()


def _since_start() -> float:
    """Return seconds since this machine's start, of which none is lost while it sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _read_json(text: str) -> Any:
    """Parse a JSON column: in half the time of the standard library, which takes lone surrogates as well."""
    try:
        return from_json(text)
    except ValueError:
        return json.loads(text)


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _create(url: URL, is_sqlite: bool) -> Engine:
    if not is_sqlite:
        server = create_engine(
            url,
            pool_pre_ping=True,
            pool_size=5,
            max_overflow=20,
            connect_args=PATIENCE,
            json_deserializer=_read_json,
        )

        @event.listens_for(server, "connect")
        def _on_new_session(connection: Any, _record: Any) -> None:
            connection.autocommit = True
            connection.execute(SESSION)
            connection.autocommit = False

        return server
    engine = create_engine(
        url,
        connect_args={"timeout": BUSY_TIMEOUT_MS / 1000, "check_same_thread": False},
        pool_size=5,
        max_overflow=60,
        json_deserializer=_read_json,
    )

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we emit BEGIN ourselves
        connection.create_function("lower", 1, _lower, deterministic=True)  # SQLite's own converts only A to Z
        cursor = connection.cursor()
        for pragma in (f"busy_timeout={BUSY_TIMEOUT_MS}", "journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Any) -> None:
        mode = connection.get_execution_options().get("sqlite_begin", "DEFERRED")
        connection.exec_driver_sql(f"BEGIN {mode}")

    return engine


P = ParamSpec("P")
T = TypeVar("T")

ATTEMPTS = 10
PAUSE_S = 0.02
UNIQUE_VIOLATION = "23505"
"""PostgreSQL's code of a unique violation."""


def retry_races(function: Callable[P, T]) -> Callable[P, T]:
    """Call a function again where another process inserted the same unique value between its look and its insert.

    The second call finds that row and does what the function does with a row that exists. All that the function stores
    must be in the transaction that was rolled back.
    """

    @functools.wraps(function)
    def retrying(*args: P.args, **kwargs: P.kwargs) -> T:
        for attempt in range(1, ATTEMPTS):
            try:
                return function(*args, **kwargs)
            except IntegrityError as error:
                if not _is_unique_violation(error):
                    raise
                # several that count the same number upwards would meet again
                time.sleep(PAUSE_S * attempt * random.random())
        return function(*args, **kwargs)

    return retrying


def _is_unique_violation(error: IntegrityError) -> bool:
    return getattr(error.orig, "sqlstate", None) == UNIQUE_VIOLATION or str(error.orig).startswith(
        "UNIQUE constraint failed"
    )


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
