"""Signing in over HTTP, and the key that signs cookies."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from httpx2 import Response
from sqlalchemy import delete
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.NewSession_pb2 import NewSession

from backend.bootstrap import build_context, migrate_database, read_secret
from backend.db.engine import Database
from backend.db.tables import InstallationSecret
from backend.services.context import LOCAL, Context
from backend.services.people.accounts import add_user, disable_account
from backend.services.people.sessions import COOKIE, PAIR_LIMIT, WINDOW_S, sign_in
from backend.web.proxies import TrustedProxies
from backend.web.sign_in import SignInGate, sign_in_routes
from tests.support.settings import make_settings


def test_a_form_signs_in_and_one_that_is_too_large_is_refused(ctx: Context) -> None:
    add_user(ctx, "maya", "correct horse battery", person=LOCAL)
    client = TestClient(Starlette(routes=sign_in_routes(lambda: ctx)), follow_redirects=False)
    form = {"name": "maya", "password": "correct horse battery", "next": "/runs"}
    answer = client.post("/auth/login", data=form)
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs")
    assert COOKIE in answer.cookies
    assert client.post("/auth/login", content=b"name=maya&password=" + b"x" * 100_000).status_code == 413


def test_a_stranger_who_guesses_behind_the_proxy_locks_out_only_himself(ctx: Context) -> None:
    add_user(ctx, "maya", "correct horse battery", person=LOCAL)
    proxies = TrustedProxies.parse("true")
    client = TestClient(
        Starlette(routes=sign_in_routes(lambda: ctx, proxies=proxies)), follow_redirects=False, client=("127.0.0.1", 1)
    )

    def post(password: str, address: str) -> Response:
        return client.post(
            "/auth/login", data={"name": "maya", "password": password}, headers={"X-Forwarded-For": address}
        )

    answers = [post("a guess", "203.0.113.9") for _ in range(PAIR_LIMIT + 2)]
    assert [answer.status_code for answer in answers] == [401] * PAIR_LIMIT + [429] * 2
    assert 0 < int(answers[-1].headers["retry-after"]) <= WINDOW_S
    assert "retry-after" not in answers[0].headers
    assert post("correct horse battery", "203.0.113.9").status_code == 429
    assert post("correct horse battery", "198.51.100.7").status_code == 303
    known = post("correct horse battery", "203.0.113.9")
    assert known.status_code == 303, "the browser has signed in before, so it is known"


def test_both_cookies_are_out_of_the_reach_of_scripts_and_of_plain_http_behind_tls(ctx: Context) -> None:
    add_user(ctx, "maya", "correct horse battery", person=LOCAL)
    proxies = TrustedProxies.parse("true")
    client = TestClient(
        Starlette(routes=sign_in_routes(lambda: ctx, proxies=proxies)), follow_redirects=False, client=("127.0.0.1", 1)
    )
    form = {"name": "maya", "password": "correct horse battery"}
    set_cookies = client.post("/auth/login", data=form, headers={"X-Forwarded-Proto": "https"}).headers.get_list(
        "set-cookie"
    )
    assert len(set_cookies) == 2
    for value in set_cookies:
        assert "HttpOnly" in value
        assert "SameSite=lax" in value
        assert "Secure" in value


def test_an_open_page_runs_from_the_top_at_its_next_message_once_the_account_is_disabled(ctx: Context) -> None:
    """Neither a button nor a fragment of the page that was drawn for the account counts before."""
    maya = add_user(ctx, "maya", "correct horse battery", person=LOCAL)
    cookie = sign_in(ctx, "maya", "correct horse battery", address="a").session
    state = ClientState(page_script_hash="costs", query_string="period=x", fragment_id="gauges")
    state.widget_states.widgets.add(id="delete", trigger_value=True)
    click = BackMsg(rerun_script=state).SerializeToString()
    begun = ForwardMsg(new_session=NewSession(name="app.py")).SerializeToString()
    finished = ForwardMsg(script_finished=ForwardMsg.FINISHED_SUCCESSFULLY).SerializeToString()
    sent = [[begun], [finished], [begun, finished], []]  # the first run ends after the account was disabled

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        """Send back what arrives, each with what a script sends then."""
        socket = WebSocket(scope, receive, send)
        await socket.accept()
        with suppress(WebSocketDisconnect):
            for more in sent:
                for message in (await socket.receive_bytes(), *more):
                    await socket.send_bytes(message)

    client = TestClient(SignInGate(answer, get_context=lambda: replace(ctx, sign_in=True)))
    with client.websocket_connect("/_stcore/stream", headers={"cookie": f"{COOKIE}={cookie}"}) as socket:
        socket.send_bytes(click)
        assert [socket.receive_bytes() for _ in range(2)] == [click, begun]
        disable_account(ctx, maya.id or "", person=LOCAL)
        for unanswered in (BackMsg(clear_cache=True).SerializeToString(), b"\xff"):
            socket.send_bytes(unanswered)
        for messages in sent[1:3]:
            socket.send_bytes(click)
            asked = BackMsg.FromString(socket.receive_bytes()).rerun_script
            assert asked == ClientState(page_script_hash="costs", query_string="period=x")
            assert [socket.receive_bytes() for _ in messages] == messages
        socket.send_bytes(click)
        assert socket.receive_bytes() == click


def test_every_process_signs_with_the_same_complete_key(tmp_path: Path) -> None:
    (tmp_path / "secret.key").touch()  # as a process left it that was killed between making and writing it
    settings = make_settings(tmp_path)
    db = Database(settings.database_url)
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: read_secret(settings, db), range(8)))
    assert len(keys) == 1
    assert len(keys.pop()) == 64


def test_machines_with_homes_of_their_own_sign_with_the_key_of_their_database(
    postgres_url: str, tmp_path: Path
) -> None:
    """Each home had a key: a session begun on one machine was none on the other, without a folder that both share."""
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "secret.key").write_text(key := "k" * 64)  # of the installation before it had a second machine
    migrate_database(make_settings(tmp_path / "0", database_url=postgres_url))
    with (server := Database(postgres_url)).write() as session:
        session.execute(delete(InstallationSecret))
    first = build_context(make_settings(tmp_path / "0", database_url=postgres_url))
    homes = [make_settings(tmp_path / str(number), database_url=postgres_url) for number in range(1, 6)]
    with ThreadPoolExecutor(5) as pool:
        machines = list(pool.map(build_context, homes))
    assert {machine.secret for machine in machines} == {first.secret} == {key.encode()}
    assert not [home.home for home in homes if (home.home / "secret.key").exists()]
    of_environment = build_context(make_settings(tmp_path / "1", database_url=postgres_url, secret_key="e" * 40))
    assert of_environment.secret == b"e" * 40
    for database in (server, *(machine.db for machine in (first, *machines, of_environment))):
        database.engine.dispose()


def test_a_short_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="32"):
        make_settings(tmp_path, secret_key="short")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/runs", 401),
        ("/live/points", 401),
        ("/_stcore/upload_file/visit/file", 401),
        ("/runs/_stcore/upload_file/visit/file", 401),
        ("/_stcore/health", 200),
        ("/runs/_stcore/health", 200),
        ("/ballot", 200),
    ],
)
def test_without_a_cookie_only_the_sign_in_the_ballot_and_the_bare_socket_are_open(
    ctx: Context, path: str, status: int
) -> None:
    async def behind(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("behind the gate")(scope, receive, send)

    client = TestClient(SignInGate(behind, get_context=lambda: replace(ctx, sign_in=True)))
    assert client.put(path, content=b"a file", headers={"accept": "*/*"}).status_code == status
