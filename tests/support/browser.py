"""A real Chromium for the journeys, and what must hold on every page."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg, ForwardMsgMetadata, RunIdentity

PATIENCE_MS = 120_000
WIDTH, HEIGHT = 1440, 900
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SHORT_VISITS = "--js-flags=--no-opt --no-maglev --min-semi-space-size=64 --no-script-streaming --no-flush-bytecode"
"""Flag of a browser whose pages are left before code that is compiled a second and a third time pays, and that keeps
what it compiled for one page for the next: other threads would compile the same scripts again while they arrive. A
fifth of the processor time. Benchmarks measure what visitors have.
"""
LOCAL = re.compile(r"(https?|wss?)://(127\.0\.0\.1|localhost)[:/]|data:|blob:")

NUMBERS = {
    "rerun": BackMsg.RERUN_SCRIPT_FIELD_NUMBER,
    "askedFragment": ClientState.FRAGMENT_ID_FIELD_NUMBER,
    "isAuto": ClientState.IS_AUTO_RERUN_FIELD_NUMBER,
    "metadata": ForwardMsg.METADATA_FIELD_NUMBER,
    "run": ForwardMsgMetadata.RUN_FIELD_NUMBER,
    "ranFragments": RunIdentity.FRAGMENT_IDS_FIELD_NUMBER,
    "begun": ForwardMsg.NEW_SESSION_FIELD_NUMBER,
    "ended": ForwardMsg.SCRIPT_FINISHED_FIELD_NUMBER,
    "early": ForwardMsg.FINISHED_EARLY_FOR_RERUN,
}

WATCH = (
    "const N = "
    + json.dumps(NUMBERS)
    + """;
const read = (bytes) => {
  const fields = {};
  let at = 0;
  const number = () => {
    let value = 0, factor = 1, byte;
    do { byte = bytes[at++]; value += (byte & 127) * factor; factor *= 128 } while (byte & 128);
    return value;
  };
  while (at < bytes.length) {
    const tag = number(), kind = tag % 8;
    const value = kind === 0 ? number() : kind === 2 ? ((size) => bytes.subarray(at, at += size))(number()) : (at += kind === 1 ? 8 : 4);
    (fields[Math.floor(tag / 8)] ??= []).push(value);
  }
  return fields;
};
const text = (bytes) => new TextDecoder().decode(bytes);
const asks = window.scriptAsks = [];  // what this page asked the script for and has no whole answer to

const sent = (bytes) => {
  const rerun = read(bytes)[N.rerun]?.[0];
  if (!rerun) return;
  const state = read(rerun);
  asks.push({fragment: state[N.askedFragment] ? text(state[N.askedFragment][0]) : '', isAuto: Boolean(state[N.isAuto]?.[0])});
};
const received = (bytes) => {
  const message = read(bytes);
  if (message[N.begun]) {
    const run = message[N.metadata] && read(message[N.metadata][0])[N.run];
    const fragments = (run && read(run[0])[N.ranFragments] || []).map(text);
    const fitting = asks.filter((ask) => !ask.isSure && (fragments.length ? fragments.includes(ask.fragment) : true));
    for (const ask of fitting) ask.isBegun = true;
    const first = fitting.find((ask) => fragments.length || !ask.fragment) ?? fitting[0];
    if (first) first.isSure = true;  // the server may have taken the others into the same run, or gives each a run of its own
  } else if (message[N.ended] && message[N.ended][0] !== N.early) {
    for (const ask of [...asks]) {
      if (ask.isSure) asks.splice(asks.indexOf(ask), 1);
      else if (ask.isBegun) ask.endedAt ??= performance.now();
    }
  }
};
window.WebSocket = class extends WebSocket {
  constructor(...parts) {
    super(...parts);
    asks.length = 0;
    this.addEventListener('message', (event) => { if (event.data instanceof ArrayBuffer) received(new Uint8Array(event.data)) });
  }
  send(data) {
    if (data instanceof Uint8Array || data instanceof ArrayBuffer) sent(new Uint8Array(data));
    super.send(data);
  }
};"""  # noqa: E501
)
"""Script that follows what a page asks Streamlit's server for and what comes back."""

DRAWN = """document.querySelector('[data-testid=stApp]')?.getAttribute('data-test-script-state') === 'notRunning'
  && document.querySelector('h1')
  && ![...document.querySelectorAll('[data-testid=stSkeleton]')].some(skeleton => skeleton.checkVisibility())"""
"""Condition of a page whose elements have all been drawn, after it was opened."""

SETTLED = (
    """(call) => {
  const now = performance.now(), waits = (ask) => !ask.isAuto && !(ask.endedAt < now - 1000);
  const isCalm = !window.scriptAsks.some(waits) && """
    + DRAWN
    + """;
  if (!isCalm || window.calm?.call !== call) window.calm = {call, since: now, frames: 0};
  window.calm.frames += 1;
  return isCalm && window.calm.frames > 3 && now - window.calm.since > 100;
}"""
)
"""Condition of a page that rests, and has for a moment: a click may lead to a message only some frames later."""

calls = count()


def chromium() -> str:
    """Return the path of Chromium: its headless shell where it is installed, which takes two thirds of the processor
    time.
    """
    for name in ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"):
        if binary := shutil.which(name):
            return binary
    raise FileNotFoundError("Chromium is not installed (Debian: apt install chromium)")


@contextmanager
def running_browser() -> Iterator[Browser]:
    """A running Chromium. Playwright holds the thread's event loop, so it ends before other tests of the process
    begin.
    """
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium(), args=[*FLAGS, SHORT_VISITS])
        yield running
        running.close()


def watch(context: BrowserContext) -> None:
    """Follow the messages of all pages that a context will open."""
    context.add_init_script("{" + WATCH + "}")


def settle(page: Page, *, timeout_s: float = PATIENCE_MS / 1000) -> None:
    """Wait until a page that is watched rests: all that its visitor did has been answered by a run of the script, and
    is drawn.

    The page's own state tells too little: after a click it says that no script runs until the first message of the run
    arrives.
    """
    page.wait_for_function(SETTLED, arg=next(calls), timeout=timeout_s * 1000)


class Visitor:
    """A person at the browser, who notices what no page may show."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.findings: list[str] = []
        page.on(
            "request",
            lambda request: (
                None if LOCAL.match(request.url) else self.findings.append(f"foreign request {request.url}")
            ),
        )
        page.on("pageerror", lambda error: self.findings.append(f"script error {error}"))

    def go(self, path: str) -> None:
        """Open a page and wait until it has settled without an error on it."""
        self.page.goto(self.url + path)
        self.settle()

    def settle(self) -> None:
        """Wait for the script's end and look at what it drew."""
        settle(self.page)
        self.look()

    def look(self) -> None:
        """Notice errors on the page."""
        text = self.page.inner_text("body")
        for sign in ("Something went wrong", "Traceback (most recent call last)", "Page not found"):
            if sign in text:
                self.findings.append(f"{sign!r} at {self.page.url}: {text[:600]}")

    def sees(self, text: str | re.Pattern[str], *, timeout_s: float = PATIENCE_MS / 1000) -> None:
        """Wait for a text that can be seen; one in a tab that is closed can not."""
        self.page.get_by_text(text).filter(visible=True).first.wait_for(timeout=timeout_s * 1000)

    def clicks(self, name: str, *, timeout_s: float = PATIENCE_MS / 1000) -> None:
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
        self.page.get_by_role("link", name=name).first.click(timeout=PATIENCE_MS)
        self.settle()

    def fills(self, label: str, value: str) -> None:
        """Fill a field and leave it."""
        field = self.page.get_by_label(label, exact=True).first
        field.fill(value)
        field.press("Tab")
        self.settle()


def patient_context(browser: Browser, **options: Any) -> BrowserContext:
    """Return a window whose waits end late: what comes at once on an idle machine takes its time on a busy one."""
    context = browser.new_context(**options)
    context.set_default_timeout(PATIENCE_MS)
    return context


def open_tab(browser: Browser, *, width: int = WIDTH, height: int = HEIGHT, time_zone: str | None = None) -> Page:
    """Open a window of its own, with cookies of its own, whose pages are watched: `settle` may wait for them."""
    context = patient_context(browser, viewport={"width": width, "height": height}, timezone_id=time_zone)
    watch(context)
    return context.new_page()


def renew(tab: Page) -> None:
    """Make a tab as good as a new one, which would read and compile the pages' scripts again: more work than a page.

    Its size stays, and who listens to it.
    """
    left = urlsplit(tab.url)
    if left.scheme == "http":
        tab.evaluate("sessionStorage.clear()")
    tab.goto("about:blank")
    tab.unroute_all()
    tab.context.set_offline(False)
    tab.context.clear_cookies()
    tab.emulate_media(color_scheme="light")
    session = tab.context.new_cdp_session(tab)
    session.send(
        "Storage.clearDataForOrigin", {"origin": f"{left.scheme}://{left.netloc}", "storageTypes": "local_storage"}
    )
    session.detach()


@contextmanager
def visit(browser: Browser, url: str) -> Iterator[Visitor]:
    """Open a window at an installation."""
    page = open_tab(browser, height=1000)
    try:
        yield Visitor(page, url)
    finally:
        page.context.close()
