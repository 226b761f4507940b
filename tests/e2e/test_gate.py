"""Beyond loopback nobody sees anything without signing in: not even the first visitor of a fresh server who deep-links
to a page.
"""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.Navigation_pb2 import Navigation
from websockets import Subprotocol
from websockets.sync.client import connect

from backend.services.context import LOCAL, Context
from backend.services.people.accounts import add_user, disable_account, reset_password
from backend.services.people.sessions import COOKIE
from pages.components.routes import addresses
from tests.support.browser import patient_context
from tests.support.installation import wait_until
from tests.support.page_server import FreshServer, page_server

pytestmark = pytest.mark.timeout(900)
PASSWORD = "a long enough password"


def first_answer(server: FreshServer, path: str) -> list[ForwardMsg]:
    """Open a session as a browser does, asking for a page, and return what the script sends until it ends.

    The HTTP gate would redirect a browser; on the websocket only the script's own gate is left.
    """
    messages = []
    with connect(
        f"ws://127.0.0.1:{server.port}/_stcore/stream", subprotocols=[Subprotocol("streamlit")], max_size=None
    ) as socket:
        socket.send(BackMsg(rerun_script=ClientState(page_name=path)).SerializeToString())
        while not messages or not messages[-1].HasField("script_finished"):
            messages.append(ForwardMsg.FromString(bytes(socket.recv(timeout=60))))  # type: ignore[arg-type]
    return messages


def sign_in_as(page: Page, name: str, password: str) -> None:
    """Fill and send the form."""
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def check_gate(messages: list[ForwardMsg]) -> None:
    """Fail unless a script's answer is the sign-in, without a list of pages."""
    elements = [message.delta.new_element for message in messages if message.HasField("delta")]
    assert [element.WhichOneof("type") for element in elements] == ["heading", "markdown", "html"]
    assert [elements[0].heading.body, elements[1].markdown.body] == ["Roundhouse", "Sign in to continue."]
    assert all(
        message.navigation.position == Navigation.Position.HIDDEN
        for message in messages
        if message.HasField("navigation")
    )


@pytest.mark.parametrize("path", ["", "datasets"])
def test_the_first_deep_link_to_a_fresh_server_passes_the_gate(ctx: Context, home: Path, path: str) -> None:
    add_user(ctx, "maya", PASSWORD, role="admin", person=LOCAL)
    with page_server(home) as server:
        check_gate(first_answer(server, path))


def test_a_deep_link_to_any_page_passes_the_gate(ctx: Context, home: Path) -> None:
    add_user(ctx, "maya", PASSWORD, role="admin", person=LOCAL)
    with page_server(home) as server:
        for address in addresses():
            check_gate(first_answer(server, address.lstrip("/")))


def test_signing_in_sets_a_cookie_that_scripts_can_not_read_and_opens_the_page_that_was_asked_for(
    ctx: Context, home: Path, browser: Browser
) -> None:
    add_user(ctx, "maya", PASSWORD, role="admin", person=LOCAL)
    server = FreshServer(home)
    try:
        wait_until(server.is_up, what="the server")
        turned_away = httpx2.get(f"{server.url}/runs?tag=x", headers={"Accept": "text/html"})
        assert turned_away.status_code == 303
        assert turned_away.headers["location"].startswith("/auth/login?next=/runs")
        context = patient_context(browser)
        page = context.new_page()
        page.goto(f"{server.url}/workers")
        page.get_by_label("Name").fill("maya")
        page.get_by_label("Password").fill("wrong")
        page.get_by_role("button", name="Sign in").click()
        page.get_by_text("The name or the password is wrong.").wait_for()
        sign_in_as(page, "maya", PASSWORD)
        page.get_by_role("heading", name="Workers").wait_for()
        page.wait_for_url(f"{server.url}/workers")
        page.get_by_text("Signed in as maya").wait_for()
        cookie = next(c for c in context.cookies() if c["name"] == COOKIE)
        assert cookie["httpOnly"]
        assert cookie["sameSite"] == "Lax"
        assert page.evaluate("document.cookie") == "" or COOKIE not in page.evaluate("document.cookie")
        context.close()
        elsewhere = httpx2.post(
            f"{server.url}/auth/login", data={"name": "maya", "password": PASSWORD, "next": "//evil.example/"}
        )
        assert elsewhere.headers["location"] == "/"
        forged = httpx2.post(
            f"{server.url}/auth/login",
            data={"name": "maya", "password": PASSWORD},
            headers={"Origin": "http://evil.example"},
        )
        assert forged.status_code == 403
    finally:
        server.stop()


def test_a_rater_is_told_that_a_page_is_not_open_to_raters(ctx: Context, home: Path, browser: Browser) -> None:
    """It was told that the page did not exist."""
    add_user(ctx, "maya", PASSWORD, role="admin", person=LOCAL)
    add_user(ctx, "rosa", PASSWORD, role="rater", person=LOCAL)
    with page_server(home) as server:
        context = patient_context(browser)
        page = context.new_page()
        page.goto(f"{server.url}/people")
        sign_in_as(page, "rosa", PASSWORD)
        for address in ("/people", "/endpoints?name=oak", "/run?id=1"):
            page.goto(server.url + address)
            page.get_by_role("heading", name="Not open to raters").wait_for()
            expect(page.get_by_role("dialog")).to_have_count(0)
        page.get_by_role("link", name="Ballot").click()
        page.wait_for_url("**/ballot")
        context.close()


def test_who_was_signed_out_reads_why_and_comes_back_to_the_page(ctx: Context, home: Path, browser: Browser) -> None:
    """The way to sign in was another tab, without the page, and nothing said what had happened."""
    maya = add_user(ctx, "maya", PASSWORD, role="admin", person=LOCAL)
    with page_server(home) as server:
        context = patient_context(browser)
        page = context.new_page()
        page.goto(f"{server.url}/workers?from=mail")
        page.get_by_text("Lost your password?").wait_for()
        sign_in_as(page, "maya", PASSWORD)
        page.get_by_role("heading", name="Workers").wait_for()
        reset_password(ctx, maya.id or "", "a new password", person=LOCAL)
        page.get_by_text("your password was changed").wait_for(timeout=20_000)
        page.get_by_role("link", name="Sign in").click()
        page.get_by_role("alert").get_by_text("your password was changed").wait_for()
        sign_in_as(page, "maya", "a new password")
        page.wait_for_url(f"{server.url}/workers?from=mail")
        page.get_by_role("heading", name="Workers").wait_for()
        assert len(context.pages) == 1
        context.close()


def test_the_first_click_after_a_session_ended_leads_to_the_sign_in(ctx: Context, home: Path, browser: Browser) -> None:
    """On a page that asks for nothing by itself the first click did nothing."""
    maya = add_user(ctx, "maya", PASSWORD, role="admin", person=LOCAL)
    with page_server(home) as server:
        context = patient_context(browser)
        page = context.new_page()
        page.goto(f"{server.url}/costs")
        sign_in_as(page, "maya", PASSWORD)
        page.get_by_role("heading", name="Costs").wait_for()
        page.get_by_text("Signed in as maya").wait_for()
        reset_password(ctx, maya.id or "", "a new password", person=LOCAL)
        page.get_by_text("30 days", exact=True).click()
        page.get_by_text("your password was changed").wait_for()
        expect(page.get_by_role("heading", name="Costs")).to_have_count(0)
        page.get_by_role("link", name="Sign in").click()
        sign_in_as(page, "maya", "a new password")
        page.wait_for_url(f"{server.url}/costs*")
        context.close()


def test_a_page_that_is_open_ends_when_its_account_is_disabled(ctx: Context, home: Path, browser: Browser) -> None:
    maya = add_user(ctx, "maya", PASSWORD, role="admin", person=LOCAL)
    add_user(ctx, "ada", PASSWORD, role="admin", person=LOCAL)
    with page_server(home) as server:
        context = patient_context(browser)
        page = context.new_page()
        page.goto(f"{server.url}/workers")
        sign_in_as(page, "maya", PASSWORD)
        page.get_by_role("heading", name="Workers").wait_for()
        disable_account(ctx, maya.id or "", person=LOCAL)
        page.get_by_text("Sign in to continue.").wait_for()  # the page asks for its gauges every two seconds
        expect(page.get_by_role("heading", name="Workers")).to_have_count(0)
        page.locator("[data-testid=stSidebarNav]").wait_for(state="detached")
        context.close()
