"""A real Chromium for the journeys, and what must hold on every page."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page
from playwright.sync_api import TimeoutError as PlaywrightTimeout

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LOCAL = re.compile(r"(https?|wss?)://(127\.0\.0\.1|localhost)[:/]|data:|blob:")
SETTLED = """() => {
  const app = document.querySelector('[data-testid=stApp]');
  return app?.getAttribute('data-test-script-state') === 'notRunning' && document.querySelector('h1')
    && ![...document.querySelectorAll('[data-testid=stSkeleton]')].some(skeleton => skeleton.checkVisibility());
}"""
"""Condition of a page whose script has ended and whose elements have all been drawn."""


def chromium() -> str:
    """Return the path of Chromium."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if binary := shutil.which(name):
            return binary
    raise FileNotFoundError("Chromium is not installed (Debian: apt install chromium)")


class Visitor:
    """A person at the browser, who notices what no page may show."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.findings: list[str] = []
        page.on("request", lambda request: None if LOCAL.match(request.url) else self.findings.append(f"foreign request {request.url}"))
        page.on("pageerror", lambda error: self.findings.append(f"script error {error}"))

    def go(self, path: str) -> None:
        """Open a page and wait until it has settled without an error on it."""
        self.page.goto(self.url + path)
        self.settle()

    def settle(self) -> None:
        """Wait for the script's end and look at what it drew."""
        self.page.wait_for_function(SETTLED, timeout=60_000)
        self.look()

    def look(self) -> None:
        """Notice errors on the page."""
        text = self.page.inner_text("body")
        for sign in ("Something went wrong", "Traceback (most recent call last)", "Page not found"):
            if sign in text:
                self.findings.append(f"{sign!r} at {self.page.url}: {text[:600]}")

    def sees(self, text: str | re.Pattern[str], *, timeout_s: float = 60.0) -> None:
        """Wait for a text that can be seen; one in a tab that is closed can not."""
        self.page.get_by_text(text).filter(visible=True).first.wait_for(timeout=timeout_s * 1000)

    def clicks(self, name: str, *, timeout_s: float = 30.0) -> None:
        """Click a button once it can be clicked."""
        self.page.get_by_role("button", name=name, exact=True).first.click(timeout=timeout_s * 1000)

    def downloads(self, name: str) -> Path:
        """Click a download button and return the file; click again where a redraw swallowed the click."""
        button = self.page.get_by_role("button", name=name, exact=True).first
        for _ in range(3):
            try:
                with self.page.expect_download(timeout=20_000) as download:
                    button.click()
                return Path(download.value.path())
            except PlaywrightTimeout:
                self.settle()
        raise AssertionError(f"{name!r} gave no file at {self.page.url}")

    def follows(self, name: str) -> None:
        """Follow a link."""
        self.page.get_by_role("link", name=name).first.click(timeout=30_000)
        self.settle()

    def fills(self, label: str, value: str) -> None:
        """Fill a field and leave it."""
        field = self.page.get_by_label(label, exact=True).first
        field.fill(value)
        field.press("Tab")
        self.settle()


@contextmanager
def visit(browser: Browser, url: str) -> Iterator[Visitor]:
    """Open a window at an installation."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    context.set_default_timeout(30_000)
    try:
        yield Visitor(context.new_page(), url)
    finally:
        context.close()
