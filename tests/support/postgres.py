"""A real PostgreSQL server for the tests, in a folder of its own on a free port."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import URL, Connection, Engine, create_engine, make_url

from backend.infra.processes import die_with_parent
from tests.support.installation import free_port, wait_until
from tests.support.settings import DATABASE_FILE, database_of


def find_binaries() -> Path | None:
    """Return the folder with `initdb` and `postgres`, newest version first, or None."""
    if binary := shutil.which("initdb"):
        return Path(binary).parent
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return candidates[-1].parent if candidates else None


class PostgresServer:
    """A server with data of its own, which can be killed and started again. It ends with this process, also if that is
    killed. It refuses to run as root, so root lends it another account.
    """

    def __init__(self) -> None:
        binaries = find_binaries()
        if binaries is None:
            raise FileNotFoundError("initdb")
        self.binaries, self.folder = binaries, Path(tempfile.mkdtemp(prefix="pg-"))
        self.account: dict[str, Any] = {}
        if os.getuid() == 0:
            lent = pwd.getpwnam("postgres")
            os.chown(self.folder, lent.pw_uid, lent.pw_gid)
            self.account = {"user": lent.pw_uid, "group": lent.pw_gid, "extra_groups": [], "cwd": self.folder}
        self.port = free_port()
        subprocess.run(
            [binaries / "initdb", "-D", self.data, "-U", "test", "-A", "trust", "-E", "UTF8", "--no-sync"],
            check=True,
            capture_output=True,
            **self.account,
        )
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        """The folder of its databases."""
        return self.folder / "data"

    @property
    def url(self) -> str:
        """Its SQLAlchemy URL."""
        return f"postgresql+psycopg://test@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = [f"-p{self.port}", f"-k{self.folder}", "-clisten_addresses=127.0.0.1", "-cfsync=off"]
        state = self.data / "postmaster.pid"  # whose last line says that it is ready
        state.unlink(missing_ok=True)
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                [self.binaries / "postgres", "-D", self.data, *options],
                stdout=log,
                stderr=log,
                preexec_fn=partial(die_with_parent, signal.SIGQUIT),  # at once, without writing what is in memory
                **self.account,
            )
        wait_until(lambda: state.exists() and "ready" in state.read_text(), what="the start of PostgreSQL")

    def kill(self) -> None:
        """End it at once, without writing what is in memory."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait()


@contextmanager
def run_postgres() -> Iterator[str]:
    """Start a server and yield its SQLAlchemy URL."""
    server = PostgresServer()
    try:
        server.start()
        yield server.url
    finally:
        server.kill()
        shutil.rmtree(server.folder, ignore_errors=True)


def copy_database(url: str, *, template: str | None = None) -> str:
    """Make a database with the content of another, which nobody uses meanwhile, or of a template; return its URL."""
    name = f"test_{uuid4().hex[:12]}"
    template = template or make_url(url).database
    with _connection(make_url(url).set(database="postgres")) as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE {template}")
    return make_url(url).set(database=name).render_as_string(hide_password=False)


def drop_database(url: str) -> None:
    """Drop a database, whoever uses it."""
    with _connection(make_url(url).set(database="postgres")) as connection:
        connection.exec_driver_sql(f"DROP DATABASE {make_url(url).database} WITH (FORCE)")


EMPTY = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
  WHERE datname = current_database() AND pid <> pg_backend_pid();
SET session_replication_role = replica;
DO $$ DECLARE name text; BEGIN
  FOR name IN SELECT quote_ident(tablename) FROM pg_tables
    WHERE schemaname = 'public' AND tablename <> 'alembic_version'
  LOOP EXECUTE 'DELETE FROM ' || name; END LOOP;
END $$;
SELECT setval(quote_ident(sequencename)::regclass, 1, false) FROM pg_sequences
  WHERE schemaname = 'public' AND last_value IS NOT NULL"""


def empty_database(url: str) -> None:
    """Delete all rows of a database, whoever uses it: a tenth of the time of a new database."""
    with _connection(make_url(url)) as connection:
        connection.exec_driver_sql(EMPTY)


@cache
def _engine(url: URL) -> Engine:
    """Return an engine whose connection stays: each new one costs as much as emptying a database."""
    return create_engine(url, isolation_level="AUTOCOMMIT", pool_size=1)


@contextmanager
def _connection(url: URL) -> Iterator[Connection]:
    with _engine(url).connect() as connection:
        yield connection


def copy_home(home: Path, copy: Path) -> Path:
    """Copy the home of an installation that does not run, and its database."""
    shutil.copytree(home, copy)
    if (copy / DATABASE_FILE).exists():
        (copy / DATABASE_FILE).write_text(copy_database(database_of(home)))
    return copy
