"""One migration makes the tables as the classes say; a database of another version is refused and left as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

from backend.bootstrap import alembic_config, migrate_database, newest_revision
from backend.db.engine import Database
from backend.db.tables import Table
from backend.errors import Conflict
from tests.support.settings import make_settings


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'models.db'}"
    else:
        server = request.getfixturevalue("postgres_url")
        admin = create_engine(server, isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.execute(text("CREATE DATABASE migrations"))
        yield server.rsplit("/", 1)[0] + "/migrations"
        with admin.connect() as connection:
            connection.execute(text("DROP DATABASE migrations WITH (FORCE)"))
        admin.dispose()


def test_the_migrations_make_what_the_tables_say(url: str) -> None:
    command.upgrade(alembic_config(url), "head")
    database = Database(url)
    with database.engine.connect() as connection:
        assert (
            compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), Table.metadata) == []
        )
    database.engine.dispose()


def test_accounts_whose_names_are_alike_stay_and_are_named(url: str, caplog: pytest.LogCaptureFixture) -> None:
    command.upgrade(alembic_config(url), "0037")
    database = Database(url)
    add = text(
        "INSERT INTO users (id, name, role, password_hash, session_epoch, created_at)"
        " VALUES (:name, :name, 'rater', 'x', 0, :at)"
    )
    with database.write() as session:
        for name, at in {"rita": "2026-01-02", "Rita": "2026-01-01", "Maya": "2026-01-03"}.items():
            session.execute(add, {"name": name, "at": f"{at} 00:00:00+00:00"})
    command.upgrade(alembic_config(url), "head")
    with database.read() as session:
        keys = dict(session.execute(text("SELECT name, name_key FROM users")).all())
    assert keys == {"Rita": "rita", "rita": None, "Maya": "maya"}
    assert "'Rita' and 'rita' have names alike" in caplog.text
    database.engine.dispose()


def test_every_foreign_key_is_enforced(url: str) -> None:
    """Runs and checkpoints refer to each other: the key of one can only be added once the other exists."""
    command.upgrade(alembic_config(url), "head")
    database = Database(url)
    with database.engine.connect() as connection:
        if database.is_sqlite:
            made = sum(
                len(connection.exec_driver_sql(f"PRAGMA foreign_key_list('{name}')").all())
                for name in Table.metadata.tables
            )
        else:
            made = connection.execute(text("SELECT count(*) FROM pg_constraint WHERE contype = 'f'")).scalar_one()
    assert made == sum(len(table.foreign_key_constraints) for table in Table.metadata.tables.values())
    database.engine.dispose()


STARTS = """
import multiprocessing, os, sys
from backend.bootstrap import get_context

def start(home):
    os.environ["ROUNDHOUSE_HOME"] = home
    get_context()

starts = [multiprocessing.get_context("fork").Process(target=start, args=(home,)) for home in sys.argv[1:]]
for one in starts:
    one.start()
for one in starts:
    one.join()
print([one.exitcode for one in starts])
"""


def test_machines_that_start_together_migrate_one_after_the_other(url: str, tmp_path: Path) -> None:
    """The lock was a file of the home: machines with homes of their own made the same tables at once."""
    homes = [str(tmp_path / ("shared" if "sqlite" in url else name)) for name in "abc"]
    started = subprocess.run(
        [sys.executable, "-c", STARTS, *homes],
        env={**os.environ, "DATABASE_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert started.stdout.splitlines()[-1] == "[0, 0, 0]", started.stdout
    database = Database(url)
    with database.engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == [
            newest_revision()
        ]
    database.engine.dispose()


def test_the_newest_revision_by_file_names_is_the_head() -> None:
    script = ScriptDirectory.from_config(alembic_config("sqlite://"))
    assert newest_revision() == script.get_current_head()


@pytest.mark.parametrize(("revision", "cure"), [("0019", "b1df1697"), ("9999", "newer version")])
def test_a_database_of_another_version_is_refused_and_left_as_it_is(tmp_path: Path, revision: str, cure: str) -> None:
    settings = make_settings(tmp_path)
    database = Database(settings.database_url)
    with database.write() as session:
        session.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
        session.execute(text("INSERT INTO alembic_version VALUES (:revision)"), {"revision": revision})
    with pytest.raises(Conflict, match=revision) as refused:
        migrate_database(settings)
    assert cure in f"{refused.value.message} {refused.value.remedy}"
    with database.read() as session:
        assert session.scalars(text("SELECT name FROM sqlite_master WHERE type = 'table'")).all() == ["alembic_version"]
        assert session.scalars(text("SELECT version_num FROM alembic_version")).all() == [revision]
    database.engine.dispose()
