"""The health line: an open page names a part that hangs and its cure, and the line goes when it answers again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import Visitor, open_tab, settle
from tests.support.installation import Installation, make_home
from tests.support.page_server import page_server

pytestmark = pytest.mark.timeout(900)


COUNT_DIALOGS = """() => {
  window.dialogs = 0
  new MutationObserver(records => {
    const added = records.flatMap(record => [...record.addedNodes])
    window.dialogs += added.filter(node => node.matches?.('.stDialog')).length
  }).observe(document.body, {childList: true})
}"""


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[Installation]:
    """A running installation without starter content."""
    running = Installation(make_home(tmp_path_factory.mktemp("installation"), migrated_database)).start()
    try:
        yield running
    finally:
        running.stop()


@contextmanager
def frozen(processes: list[psutil.Process]) -> Iterator[None]:
    """Suspend processes, as a machine that swaps or a debugger does."""
    assert processes
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


def broker_of(installation: Installation) -> list[psutil.Process]:
    """Return the built-in broker, whose title is its socket."""
    return [
        one
        for one in psutil.process_iter(["cmdline"])
        if f"{installation.home}/broker" in " ".join(one.info["cmdline"] or [])
    ]


def test_an_open_page_names_a_frozen_gateway_broker_or_worker_and_the_cure(
    installation: Installation, visitor: Visitor
) -> None:
    page: Page = visitor.page
    visitor.go("/prompts")  # a page that does not draw itself again
    line = page.locator(".rr-health")
    expect(line).to_be_hidden()
    for processes, cause, cure in (
        (installation.processes("backend.gateway.serve"), "The gateway does not answer", "roundhouse up"),
        (broker_of(installation), "The broker does not answer", "REDIS_URL"),
        (
            installation.processes("jobs.celery_app"),
            "do not answer any more (queues cpu, eval, serve, train)",
            "See the Workers page",
        ),
    ):
        with frozen(processes):
            expect(line).to_contain_text(cause)
            expect(line).to_contain_text(cure)
            expect(page.get_by_role("heading", name="Prompts", exact=True)).to_be_in_viewport()
        expect(line).to_be_hidden()


def test_an_open_page_says_that_its_own_server_hangs(installation: Installation, visitor: Visitor) -> None:
    page: Page = visitor.page
    visitor.go("/runs")
    with frozen([installation_pages(installation)]):
        expect(page.locator(".rr-health")).to_contain_text("The pages' server does not answer")
    expect(page.locator(".rr-health")).to_be_hidden()


def test_when_the_pages_server_has_ended_the_line_alone_says_what_to_start(
    browser: Browser, tmp_path: Path, migrated_database: Path
) -> None:
    (tmp_path / "models.db").write_bytes(migrated_database.read_bytes())
    tab = open_tab(browser)
    with page_server(tmp_path, ROUNDHOUSE_HOST="127.0.0.1") as server:
        tab.goto(f"{server.url}/runs")
        settle(tab)
        tab.evaluate(COUNT_DIALOGS)
    expect(tab.locator(".rr-health")).to_contain_text("roundhouse up")
    tab.wait_for_function("window.dialogs > 0")  # Streamlit has asked about the internet
    expect(tab.get_by_role("dialog")).to_have_count(0)
    tab.context.close()


def test_on_a_phone_the_line_is_one_and_has_the_cure_when_asked(
    browser: Browser, tmp_path: Path, migrated_database: Path
) -> None:
    """Cause and cure took 101 pixels of each page."""
    (tmp_path / "models.db").write_bytes(migrated_database.read_bytes())
    tab = open_tab(browser, width=390, height=844)
    with page_server(tmp_path, ROUNDHOUSE_HOST="127.0.0.1") as server:
        tab.goto(f"{server.url}/runs")
        settle(tab)
    line, cure = tab.locator(".rr-health"), tab.get_by_text("starts it again")
    expect(line).to_contain_text("The pages' server does not answer")
    expect(cure).to_be_hidden()
    folded = line.bounding_box()
    assert folded is not None
    assert folded["height"] < 45
    line.get_by_role("button", name="Details").click()
    expect(cure).to_be_visible()
    line.get_by_role("button", name="Less").click()
    expect(cure).to_be_hidden()
    tab.context.close()


def installation_pages(installation: Installation) -> psutil.Process:
    """Return the pages' server."""
    (process,) = installation.processes("streamlit")
    return process
