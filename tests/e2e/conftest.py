"""One Chromium for the browser tests of a file; each opens contexts of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.support.browser import FLAGS, PATIENCE_MS, Visitor, chromium, visit
from tests.support.installation import Installation

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A running Chromium. Playwright holds the thread's event loop, so it ends before other tests of the process
    begin.
    """
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A whole installation, started as a person starts it, for the tests of a file."""
    running = Installation(tmp_path_factory.mktemp("installation"), ROUNDHOUSE_TRAIN_NICE="0").start()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def visitor(browser: Browser, installation: Installation) -> Iterator[Visitor]:
    """A visitor of the installation's pages."""
    with visit(browser, installation.url) as person:
        yield person
