"""A server answers to its own names alone: what DNS rebinding, foreign pages and odd headers meet."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from backend.infra.hosts import HostGuard, HostRules, make_host_rules, reachable_host

LOOPBACK_ONLY = HostRules()


async def behind(scope: Any, receive: Any, send: Any) -> None:
    """Answer everything, and tell the Origin that arrives."""
    if scope["type"] == "websocket":
        socket = WebSocket(scope, receive, send)
        await socket.accept()
        await socket.send_text(socket.headers.get("origin", "none"))
        await socket.close()
        return
    await PlainTextResponse("inside")(scope, receive, send)


def status(rules: HostRules, host: str, *, method: str = "GET", origin: str | None = None) -> int:
    """Return the status of a request under a name."""
    client = TestClient(HostGuard(behind, rules=rules))
    return client.request(method, "/", headers={"host": host, **({"origin": origin} if origin else {})}).status_code


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8501", "127.0.0.1:8501", "127.0.0.2", "[::1]:8501", "a.localhost:1", "localhost."]
)
def test_loopback_is_always_let_in(host: str) -> None:
    assert status(LOOPBACK_ONLY, host) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8501",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil.example@127.0.0.1",
        "127.0.0.1,evil.example",
        "10.0.0.7",
        "0.0.0.0:8501",
        "[::2]",
        "2130706433",
        "0x7f.1",
        "localhost:8501:8501",
        "127.0.0.1/evil.example",
        "",
        " ",
    ],
)
def test_other_hosts_are_refused_on_a_loopback_installation(host: str) -> None:
    assert status(LOOPBACK_ONLY, host) == 400


def test_two_hosts_in_one_request_are_refused() -> None:
    client = TestClient(HostGuard(behind, rules=LOOPBACK_ONLY))
    assert client.get("/", headers=[("host", "127.0.0.1"), ("host", "evil.example")]).status_code == 400


def test_a_listed_name_a_domain_and_the_public_url_are_let_in() -> None:
    rules = make_host_rules(
        listens_on="127.0.0.1", names=("Lab.example.org", "*.lan"), urls=("https://models.example.net:8443", None)
    )
    for host in ("lab.example.org", "gpu.lan", "a.b.lan:8501", "models.example.net"):
        assert status(rules, host) == 200
    for host in ("example.org", "x.lab.example.org", "lan", "evillan", "models.example.net.evil.example"):
        assert status(rules, host) == 400


def test_listening_everywhere_lets_addresses_in_and_foreign_names_out() -> None:
    rules = make_host_rules(listens_on="0.0.0.0", names=(), urls=())
    assert status(rules, "192.168.1.5:8501") == 200
    assert status(rules, "[2001:db8::7]:8501") == 200
    assert status(rules, "evil.example") == 400


def test_a_websocket_under_a_forged_host_is_refused_though_its_origin_agrees() -> None:
    client = TestClient(HostGuard(behind, rules=LOOPBACK_ONLY))
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect(
            "/_stcore/stream", headers={"host": "evil.example:8501", "origin": "http://evil.example:8501"}
        ),
    ):
        pass


@pytest.mark.parametrize(
    ("origin", "is_allowed"),
    [
        ("http://127.0.0.1:8501", True),
        ("https://lab.example.org", True),
        ("http://127.0.0.1:9999", False),
        ("http://localhost:8501", False),
        ("https://evil.example", False),
        ("http://127.0.0.1:8501@evil.example", False),
        ("null", False),
    ],
)
def test_a_websocket_and_a_form_need_an_origin_of_this_server(origin: str, is_allowed: bool) -> None:
    rules = make_host_rules(listens_on="127.0.0.1", names=(), urls=("https://lab.example.org",))
    assert status(rules, "127.0.0.1:8501", method="POST", origin=origin) == (200 if is_allowed else 403)
    assert status(rules, "127.0.0.1:8501", method="GET", origin=origin) == 200
    client = TestClient(HostGuard(behind, rules=rules))
    try:
        with client.websocket_connect("/", headers={"host": "127.0.0.1:8501", "origin": origin}) as socket:
            assert socket.receive_text() == "http://127.0.0.1:8501", (
                "Streamlit compares with Host, so it gets this server's own origin"
            )
            was_let_in = True
    except WebSocketDisconnect:
        was_let_in = False
    assert was_let_in is is_allowed


def test_a_default_port_may_be_written_or_left_out() -> None:
    assert LOOPBACK_ONLY.allows_origin("http://localhost", "localhost:80")
    assert LOOPBACK_ONLY.allows_origin("https://localhost:443", "localhost")
    assert not LOOPBACK_ONLY.allows_origin("https://localhost", "localhost:80")


def test_links_of_a_server_that_listens_everywhere_never_lead_to_loopback() -> None:
    assert not reachable_host("0.0.0.0").startswith("127.")
    assert reachable_host("0.0.0.0") != "localhost"
    assert reachable_host("192.168.1.5") == "192.168.1.5"
    assert reachable_host("::1") == "[::1]"
