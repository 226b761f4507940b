"""What fault tests start from: an installation that has been used, with a small dataset and a byte tokenizer in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.bootstrap import build_context
from backend.services.context import LOCAL
from backend.services.data.imports import add_rows_dataset
from tests.support.installation import Installation, mark_starter_content
from tests.support.job_work import do_job
from tests.support.postgres import copy_database, copy_home
from tests.support.scenario import Scenario
from tests.support.settings import DATABASE_FILE, make_settings


@pytest.fixture(scope="session")
def used_home(
    tmp_path_factory: pytest.TempPathFactory, migrated_database: Path, request: pytest.FixtureRequest
) -> Path:
    """The home folder that tests copy; its jobs were done here, without a worker."""
    home = tmp_path_factory.mktemp("used") / "home"
    home.mkdir()
    if request.config.getoption("--database") != "sqlite":
        (home / DATABASE_FILE).write_text(copy_database(request.getfixturevalue("migrated_postgres")))
    else:
        (home / "models.db").write_bytes(migrated_database.read_bytes())
    ctx = build_context(make_settings(home), migrate=False)
    mark_starter_content(ctx)
    rows = [
        {"text": f"Row {n}: the {n % 7} engines stand in the roundhouse and wait for steam. " * 8} for n in range(60)
    ]
    version = add_rows_dataset(ctx, name="lines", kind="text", rows=rows, person=LOCAL)
    do_job(ctx, version.job_id)
    Scenario(ctx).tokenizer("bytes", kind="byte", dataset="lines")
    if ctx.db.is_sqlite:
        with ctx.db.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    ctx.db.engine.dispose()  # a database that someone uses is not copied
    return home


@pytest.fixture
def home(tmp_path: Path, used_home: Path) -> Path:
    """A copy of it."""
    return copy_home(used_home, tmp_path / "home")


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, used_home: Path) -> Iterator[Installation]:
    """A running installation on a copy of it, for the tests of a module that can share one."""
    running = Installation(copy_home(used_home, tmp_path_factory.mktemp("installation") / "home")).start()
    try:
        yield running
    finally:
        running.stop()
