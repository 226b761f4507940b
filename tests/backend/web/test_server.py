"""What the pages' server does before its first visitor, and the script that it names early."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from importlib.resources import files

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from backend.services.browser_assets import plotly_url
from backend.web.server import (
    LARGEST_FILE,
    ONE_STEP_BACK,
    ROOM,
    SERVER_ADDRESS,
    STATIC_IMPORT,
    WIDGETS,
    PageHeads,
    send_small_answers_at_once,
    widget_files,
)
from tests.support.installation import PROJECT

STYLE = "html { font-size: 15px }"
INDEX = f"<html><head><title>é</title></head><body>{'x' * 2000}</body></html>"


@pytest.fixture
def browser() -> TestClient:
    """A browser before a server that packs its pages and names their version, as Streamlit's does."""

    async def index(request: Request) -> Response:
        if request.headers.get("if-none-match"):
            return Response(status_code=304)
        return HTMLResponse(INDEX, headers={"etag": '"1"'})

    return TestClient(
        Starlette(
            routes=[Route("/{page}", index)],
            middleware=[
                Middleware(PageHeads, addresses=["/run", "/runs"], style=STYLE),
                Middleware(GZipMiddleware, minimum_size=10),
            ],
        )
    )


def test_a_page_of_curves_loads_plotly_in_its_head_and_is_cached_apart(browser: TestClient) -> None:
    answer = browser.get("/run", headers={"if-none-match": '"1"'})
    assert answer.status_code == 200
    chart = f'<script async src="{plotly_url()}" onerror="this.remove()"></script>'
    assert f"{chart}</head><body>x" in answer.text
    assert answer.text.startswith("<html><head><title>é</title><script")
    assert "etag" not in answer.headers


def test_the_length_of_a_page_without_its_body_is_unchanged(browser: TestClient) -> None:
    answer = browser.head("/run")
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) >= len(INDEX)


def test_every_page_names_the_servers_address_and_other_answers_stay_as_they_are(browser: TestClient) -> None:
    head = f"{SERVER_ADDRESS}{ONE_STEP_BACK}{ROOM}<style>{STYLE}</style>{widget_files()}"
    assert browser.get("/runs").text == INDEX.replace("</head>", f"{head}</head>")
    assert browser.get("/runs/").text == browser.get("/runs").text
    assert browser.get("/other").text == INDEX
    assert browser.get("/other", headers={"if-none-match": '"1"'}).status_code == 304


def test_the_files_of_a_widget_and_all_that_they_import_are_named_once_and_the_largest_are_not() -> None:
    static = files("streamlit") / "static"
    named = re.findall(r'href="\./(static/js/[^"]+)"', widget_files())
    assert len(named) == len(set(named))
    index = (static / "index.html").read_text()
    texts = {name: (static / name).read_text() for name in named}
    assert {widget for widget in WIDGETS if not any(f"/{widget}." in name for name in named)} == set()
    assert max(map(len, texts.values())) <= LARGEST_FILE
    imported = {f"static/js/{name}" for text in texts.values() for name in STATIC_IMPORT.findall(text)}
    left_out = {name for name in imported - set(named) if name not in index}
    assert all(len((static / name).read_text()) > LARGEST_FILE for name in left_out)


def test_connections_send_small_answers_at_once() -> None:
    with socket.socket() as listening, socket.socket() as visitor:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        send_small_answers_at_once()
        visitor.connect(listening.getsockname())
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        assert visitor.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0


def test_the_warm_up_imports_every_component_and_switches_the_garbage_collector_on() -> None:
    code = """
import gc, sys
gc.disable()
from backend.web.server import warm_up
warm_up("pages.components").join()
print(gc.isenabled(), gc.get_freeze_count() > 100_000, *sorted(name for name in sys.modules if name.startswith("pages.components.")))
"""  # noqa: E501
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT)
    enabled, frozen, *modules = result.stdout.split()
    assert (enabled, frozen) == ("True", "True")
    files = [path for path in (PROJECT / "pages" / "components").rglob("*.py") if path.name != "__init__.py"]
    assert len([name for name in modules if not is_package(name)]) == len(files)


def is_package(name: str) -> bool:
    return (PROJECT / name.replace(".", "/")).is_dir()
