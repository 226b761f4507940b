"""Beyond loopback nobody sees anything without signing in: not even the first visitor of a fresh server who deep-links to a page."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser

from backend.services.context import LOCAL, Context
from backend.services.people.accounts import add_user, disable_account
from backend.services.people.sessions import COOKIE
from tests.support.installation import wait_until
from tests.support.page_server import FreshServer, page_server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]
PASSWORD = "a long enough password"
PATHS = (
    "",
    "datasets",
    "architectures",
    "tokenizers",
    "launch",
    "runs",
    "run",
    "checkpoints",
    "evaluations",
    "battles",
    "ballot",
    "endpoints",
    "playground",
    "workers",
    "people",
)


def test_the_first_deep_link_to_any_page_of_a_fresh_server_passes_the_gate(ctx: Context, home: Path, browser: Browser) -> None:
    add_user(ctx, "maya", PASSWORD, role="admin", person=LOCAL)
    for start in range(0, len(PATHS), 4):  # four servers at a time, each for one visitor
        group = {path: FreshServer(home) for path in PATHS[start : start + 4]}
        try:
            for path, server in group.items():
                wait_until(server.is_up, timeout_s=90, what="the server")
                context = browser.new_context()
                page = context.new_page()
                # The HTTP gate would redirect, so the visitor enters by the one open page and changes the address before the script
                # asks for anything: only the script's own gate is left.
                page.add_init_script(f"history.replaceState(null, '', '/{path}')")
                page.goto(f"{server.url}/ballot")
                page.get_by_text("Sign in to continue.").wait_for(timeout=30_000)
                assert page.locator("[data-testid=stSidebarNav]").count() == 0
                assert page.locator("h1").all_inner_texts() == ["Roundhouse"]
                context.close()
        finally:
            for server in group.values():
                server.stop()


def test_signing_in_sets_a_cookie_that_scripts_can_not_read_and_opens_the_page_that_was_asked_for(
    ctx: Context, home: Path, browser: Browser
) -> None:
    add_user(ctx, "maya", PASSWORD, role="admin", person=LOCAL)
    server = FreshServer(home)
    try:
        wait_until(server.is_up, timeout_s=60, what="the server")
        turned_away = httpx.get(f"{server.url}/runs?tag=x", headers={"Accept": "text/html"})
        assert turned_away.status_code == 303
        assert turned_away.headers["location"].startswith("/auth/login?next=/runs")
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{server.url}/workers")
        page.get_by_label("Name").fill("maya")
        page.get_by_label("Password").fill("wrong")
        page.get_by_role("button", name="Sign in").click()
        page.get_by_text("The name or the password is wrong.").wait_for()
        page.get_by_label("Name").fill("maya")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("heading", name="Workers").wait_for(timeout=30_000)
        assert page.url == f"{server.url}/workers"
        page.get_by_text("Signed in as maya").wait_for()
        cookie = next(c for c in context.cookies() if c["name"] == COOKIE)
        assert cookie["httpOnly"]
        assert cookie["sameSite"] == "Lax"
        assert page.evaluate("document.cookie") == "" or COOKIE not in page.evaluate("document.cookie")
        context.close()
        elsewhere = httpx.post(f"{server.url}/auth/login", data={"name": "maya", "password": PASSWORD, "next": "//evil.example/"})
        assert elsewhere.headers["location"] == "/"
        forged = httpx.post(
            f"{server.url}/auth/login", data={"name": "maya", "password": PASSWORD}, headers={"Origin": "http://evil.example"}
        )
        assert forged.status_code == 403
    finally:
        server.stop()


def test_a_page_that_is_open_ends_when_its_account_is_disabled(ctx: Context, home: Path, browser: Browser) -> None:
    maya = add_user(ctx, "maya", PASSWORD, role="admin", person=LOCAL)
    add_user(ctx, "ada", PASSWORD, role="admin", person=LOCAL)
    with page_server(home) as server:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{server.url}/workers")
        page.get_by_label("Name").fill("maya")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("heading", name="Workers").wait_for(timeout=30_000)
        disable_account(ctx, maya.id or "", person=LOCAL)
        page.get_by_text("Sign in to continue.").wait_for(timeout=30_000)  # the page asks for its gauges every two seconds
        assert page.get_by_role("heading", name="Workers").count() == 0
        page.locator("[data-testid=stSidebarNav]").wait_for(state="detached", timeout=10_000)
        context.close()
