"""One Chromium for the browser tests of a file, and one tab for those that need no other."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import text

from backend.bootstrap import build_context
from backend.db.base import Table
from backend.domain.jobs.states import Status
from backend.services.starter import ensure_starter_content
from tests.support.browser import (
    HEIGHT,
    PATIENCE_MS,
    WIDTH,
    Visitor,
    open_tab,
    renew,
    running_browser,
    visit,
)
from tests.support.installation import Installation
from tests.support.job_work import do_job
from tests.support.jobs import list_jobs
from tests.support.page_server import Pages, page_server
from tests.support.settings import make_settings

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The Chromium of a file."""
    with running_browser() as running:
        yield running


@pytest.fixture(scope="module")
def only_tab(browser: Browser) -> Iterator[Page]:
    """The tab that the tests of a file share."""
    page = open_tab(browser)
    yield page
    page.context.close()


@pytest.fixture
def tab(only_tab: Page) -> Iterator[Page]:
    """A tab that shows nothing yet and knows of no visit."""
    only_tab.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    yield only_tab
    renew(only_tab)


@pytest.fixture(scope="module")
def shared_pages(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[Pages]:
    """Pages that the tests of a file share."""
    home = tmp_path_factory.mktemp("pages")
    (home / "models.db").write_bytes(migrated_database.read_bytes())
    context = build_context(make_settings(home), migrate=False)
    with page_server(home, ROUNDHOUSE_HOST="127.0.0.1") as server:
        yield Pages(server.url, context)
    context.db.engine.dispose(close=False)


@pytest.fixture
def emptied(shared_pages: Pages) -> Pages:
    """Pages over an installation that nobody has used yet."""
    with shared_pages.ctx.db.write() as session:
        session.execute(text("PRAGMA defer_foreign_keys = ON"))
        for table in reversed(Table.metadata.sorted_tables):
            session.execute(table.delete())
    return shared_pages


@pytest.fixture(scope="session")
def starter_home(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Path:
    """The home folder of an installation with its starter content, which tests copy. Its jobs were done here, without a
    worker, whose process of its own for each takes longer than the job.
    """
    home = tmp_path_factory.mktemp("starter") / "home"
    home.mkdir()
    (home / "models.db").write_bytes(migrated_database.read_bytes())
    ctx = build_context(make_settings(home), migrate=False)
    ensure_starter_content(ctx)
    while jobs := list_jobs(ctx, statuses=(Status.QUEUED,)):
        assert do_job(ctx, jobs[-1].id).status is Status.FINISHED
    with ctx.db.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    ctx.db.engine.dispose(close=False)
    return home


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, starter_home: Path) -> Iterator[Installation]:
    """A whole installation with its starter content, started as a person starts it, for the tests of a file."""
    home = Path(shutil.copytree(starter_home, tmp_path_factory.mktemp("installation") / "home"))
    running = Installation(home).start()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def visitor(browser: Browser, installation: Installation) -> Iterator[Visitor]:
    """A visitor of the installation's pages."""
    with visit(browser, installation.url) as person:
        yield person
