"""A damaged models.db: what doctor, `up`, commands, pages and /healthz say of it."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError
from typer.testing import CliRunner

from backend.bootstrap import build_context
from backend.cli.doctor import check_database
from backend.cli.main import app
from backend.db.engine import RESTORE, Database, find_damage, how_to_restore
from backend.services.context import Context
from backend.services.health import DAMAGED, HealthWatch, check_file, ping_database
from backend.services.outage import outage_of
from backend.settings import Settings
from tests.support.damage import DAMAGES, FAR_DAMAGES, Damage, overwrite_table
from tests.support.installation import wait_until
from tests.support.settings import make_settings, name_installation


@pytest.fixture
def home(tmp_path: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose database is well."""
    shutil.copy(migrated_database, tmp_path / "models.db")
    name_installation(monkeypatch, tmp_path)
    return tmp_path


@pytest.fixture
def watched(home: Path) -> Iterator[Context]:
    """An installation whose table of messages is damaged while it runs."""
    ctx = build_context(make_settings(home), migrate=False)
    overwrite_table(home / "models.db")
    yield ctx
    ctx.db.engine.dispose()


@pytest.mark.parametrize("damage", DAMAGES)
def test_doctor_and_up_say_that_the_file_is_damaged_and_how_to_restore_it(home: Path, damage: Damage) -> None:
    """Doctor called it ok, or ended in a traceback; the cure was to start it."""
    damage(home / "models.db")
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 1, result.output
    findings = {finding["name"]: finding for finding in json.loads(result.stdout)["findings"]}
    assert findings["database"]["state"] == "problem"
    assert findings["database"]["detail"].startswith(f"{home}/models.db is damaged: ")
    assert findings["database"]["cure"] == how_to_restore(home / "models.db")
    assert {"python", "packages", "disk", "broker", "devices", "library"} <= findings.keys()
    result = CliRunner().invoke(app, ["up", "--only", "pages"])
    assert result.exit_code == 1, result.output
    assert f"{home}/models.db is damaged: " in result.stderr
    assert how_to_restore(home / "models.db") in result.stderr


@pytest.mark.parametrize("damage", FAR_DAMAGES)
def test_commands_on_a_damaged_file_end_in_one_sentence(home: Path, damage: Damage) -> None:
    """A traceback of 60 lines."""
    damage(home / "models.db")
    for command in ("endpoint list", "run list"):
        result = CliRunner().invoke(app, command.split())
        cure = how_to_restore(home / "models.db")
        assert (result.exit_code, result.stderr) == (1, f"roundhouse: models.db is damaged. {cure}\n")


@pytest.mark.parametrize("name", ["models.db", "my runs.db"])
def test_the_commands_restore_the_file_that_is_damaged(home: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They unpacked into ~/.roundhouse, wherever the database was."""
    backups, database = home / "backups", home / "other home" / name
    backups.mkdir()
    database.parent.mkdir()
    subprocess.run(["tar", "czf", backups / "backup.tgz", "-C", home, "./models.db"], check=True)
    (home / "models.db").rename(database)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{database}")
    database.write_bytes(b"no database")
    Path(f"{database}-wal").touch()
    problem = check_database(Settings())
    (_, command) = re.findall(r"`(.*?)`", problem.cure)
    assert problem.state == "problem"
    subprocess.run(["sh", "-c", command], cwd=backups, check=True)
    assert sorted(file.name for file in (backups / "damaged").iterdir()) == [name, f"{name}-wal"]
    assert check_database(Settings()).state == "ok"


def test_damage_while_it_runs_is_an_outage_on_every_page(watched: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """/healthz was ok, and pages blamed themselves."""
    assert ping_database(watched) is None, "its row is not damaged"
    assert check_file(watched) == DAMAGED
    assert ping_database(watched) == DAMAGED, "at once, and until the next start"
    monkeypatch.setattr("backend.services.health.START_S", 0.0)
    watch = HealthWatch()
    watch.start(watched)
    try:
        wait_until(lambda: DAMAGED in watch.outages(), what="the outage")
        assert watch.outages().count(DAMAGED) == 1
    finally:
        watch.close()


def test_a_page_that_meets_damage_says_so_and_reports_it(watched: Context) -> None:
    def read_all() -> None:
        with watched.db.read() as session:
            for name in session.scalars(text("select name from sqlite_schema where type = 'table'")).all():
                session.execute(text(f"select * from {name}")).all()

    with pytest.raises(DatabaseError) as raised:
        read_all()
    outage = outage_of(raised.value)
    assert outage is not None
    assert str(outage) == f"The database is damaged. {RESTORE}"
    assert ping_database(watched) == DAMAGED


def test_a_check_without_time_and_other_errors_call_no_file_damaged(home: Path) -> None:
    with sqlite3.connect(home / "models.db") as connection:
        connection.execute("create table large (value blob)")
        connection.executemany("insert into large values (randomblob(?))", [(3000,)] * 5000)
    connection.close()
    assert find_damage(home / "models.db") is None
    assert find_damage(home / "models.db", within_s=-1.0) is None
    database = Database(f"sqlite:///{home / 'other.db'}")
    with pytest.raises(Exception, match="no such table"), database.read() as session:
        session.execute(text("select * from missing_table"))
    assert not database.is_damaged
    database.engine.dispose()
