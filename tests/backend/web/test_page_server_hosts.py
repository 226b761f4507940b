"""The real pages' server: no route of it, Streamlit's own included, answers under a name that a foreign page has
pointed at it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.support.page_server import FreshServer, page_server

pytestmark = pytest.mark.timeout(900)
ROUTES = (
    "/",
    "/runs",
    "/healthz",
    "/live/points",
    "/download/dataset",
    "/auth/login",
    "/_stcore/health",
    "/_stcore/host-config",
    "/media/x",
    "/component/x",
    "/static/js/x.js",
    "/favicon.png",
    "/runs/_stcore/health",
    "/missing",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FreshServer]:
    """A loopback installation without accounts, behind a proxy that keeps the name lab.example.org."""
    home: Path = tmp_path_factory.mktemp("home")
    with page_server(home, ROUNDHOUSE_HOST="127.0.0.1", ROUNDHOUSE_ALLOWED_HOSTS="lab.example.org") as running:
        yield running


@pytest.mark.parametrize("path", ROUTES)
def test_no_route_answers_to_a_foreign_name(server: FreshServer, path: str) -> None:
    refused = httpx2.get(server.url + path, headers={"Host": f"evil.example:{server.port}"})
    assert (refused.status_code, "evil.example" in refused.text) == (400, True)
    assert httpx2.get(server.url + path, headers={"Host": "lab.example.org"}).status_code != 400 or path.startswith(
        "/live"
    )


def knock(server: FreshServer, host: str, origin: str | None) -> int:
    """Open Streamlit's websocket and return the status of the answer."""
    address = socket.create_connection(("127.0.0.1", server.port))
    try:
        with connect(f"ws://{host}/_stcore/stream", sock=address, origin=origin, subprotocols=["streamlit"]):  # type: ignore[arg-type, list-item]
            return 101
    except InvalidStatus as error:
        return error.response.status_code


def test_a_rebound_name_gets_no_websocket_though_host_and_origin_agree(server: FreshServer) -> None:
    name = f"evil.example:{server.port}"
    assert knock(server, name, f"http://{name}") == 403
    assert knock(server, name, None) == 403
    assert knock(server, f"127.0.0.1:{server.port}", f"http://{name}") == 403
    assert knock(server, f"127.0.0.1:{server.port}", "http://127.0.0.1:3000") == 403, (
        "another program's page on this machine"
    )


def test_the_own_address_and_a_listed_name_get_one(server: FreshServer) -> None:
    for name in (f"127.0.0.1:{server.port}", f"localhost:{server.port}", "lab.example.org"):
        assert knock(server, name, f"http://{name}") == 101
    assert knock(server, "lab.example.org", "https://lab.example.org") == 101
