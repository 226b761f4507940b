"""Two page servers on machines without a shared folder, behind HAProxy as deploy/haproxy.cfg sets it up: sign-ins and
live curves are shared, and an open page moves to the other when that one ends.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from backend.bootstrap import build_context
from backend.services.context import LOCAL, Context
from backend.services.people.accounts import add_user
from tests.support.browser import patient_context, running_browser
from tests.support.installation import PROJECT, free_port, wait_until
from tests.support.page_server import FreshServer, page_server
from tests.support.postgres import copy_database, drop_database
from tests.support.run_world import claim, points, report
from tests.support.scenario import Scenario
from tests.support.settings import make_settings
from tests.support.workers.workers import process

HAPROXY = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(HAPROXY is None, reason="HAProxy is not installed (Debian: apt install haproxy)"),
]
PASSWORD, SECRET = "a long enough password", "one secret for all the machines of a team"
SERVERS = ("one", "two")
CURVE = "document.querySelector('[data-panel=\"loss\"] .rh-plot')?.data?.[0]?.x?.at(-1)"


@pytest.fixture
def browser() -> Iterator[Browser]:
    with running_browser() as running:
        yield running


@pytest.fixture
def database(migrated_postgres: str) -> Iterator[str]:
    url = copy_database(migrated_postgres)
    yield url
    drop_database(url)


@pytest.fixture
def ctx(tmp_path: Path, database: str) -> Iterator[Context]:
    """The machine that trains."""
    settings = make_settings(tmp_path / "worker", database_url=database, secret_key=SECRET)
    (tmp_path / "worker").mkdir()
    context = build_context(settings, migrate=False)
    Scenario(context).parts()
    for name in ("maya", "ada"):
        add_user(context, name, PASSWORD, role="admin", person=LOCAL)
    yield context
    context.db.engine.dispose()


def sign_in(browser: Browser, url: str, name: str) -> Page:
    """Open the list of workers as somebody who has to sign in first."""
    page = patient_context(browser).new_page()
    page.goto(f"{url}/workers")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text(f"Signed in as {name}").wait_for()
    return page


def server_of(context: BrowserContext) -> str:
    return next(str(each.get("value")) for each in context.cookies() if each.get("name") == "ROUNDHOUSE_PAGES")


def test_two_page_servers_behind_haproxy_share_sign_in_and_live_curves(
    ctx: Context, database: str, tmp_path: Path, browser: Browser
) -> None:
    run = Scenario(ctx).run(max_steps=1000)
    job = claim(ctx, run)
    report(ctx, job, *points(1, 50))
    with ExitStack() as stack:
        servers: dict[str, FreshServer] = {}
        for name in SERVERS:
            (tmp_path / name).mkdir()
            shared = {"DATABASE_URL": database, "ROUNDHOUSE_SECRET_KEY": SECRET}
            servers[name] = stack.enter_context(page_server(tmp_path / name, **shared))
        url = f"http://127.0.0.1:{free_port()}"
        addresses = {f"PAGES_{name.upper()}": f"127.0.0.1:{server.port}" for name, server in servers.items()}
        environment = {**os.environ, **addresses, "LISTEN": url.removeprefix("http://")}
        command = [str(HAPROXY), "-db", "-f", str(PROJECT / "deploy" / "haproxy.cfg")]
        stack.enter_context(process(command, env=environment))
        wait_until(lambda: _answers(url), timeout_s=60, what="HAProxy and a page server")
        pages = {name: sign_in(browser, url, name) for name in ("maya", "ada")}
        for page in pages.values():
            stack.callback(page.context.close)
            page.goto(f"{url}/run?run={run.id}")
            page.wait_for_function(f"{CURVE} === 50")
        by_server = {server_of(page.context): page for page in pages.values()}
        assert sorted(by_server) == sorted(SERVERS), "each has a server of its own"
        report(ctx, job, *points(51, 60))
        for page in pages.values():
            page.wait_for_function(f"{CURVE} === 60")
        gone, left = server_of(pages["maya"].context), server_of(pages["ada"].context)
        servers[gone].process.kill()
        report(ctx, job, *points(61, 70))
        for page in pages.values():
            page.wait_for_function(f"{CURVE} === 70")
        pages["maya"].reload()
        pages["maya"].get_by_text("Signed in as maya").wait_for()
        assert server_of(pages["maya"].context) == left
        pages["ada"].get_by_text("Signed in as ada").wait_for()


def _answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/healthz", timeout=10).status_code == 200
    except httpx2.TransportError:
        return False
