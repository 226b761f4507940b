"""Addresses that no page has are answered 404 by a page of ours; everything else passes unchanged."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from backend.web.not_found import UnknownPages
from pages.components import routes


async def _any(request: Request) -> Response:
    """Answer as Streamlit does: the page application for whatever address."""
    if request.url.path.startswith("/live"):
        return JSONResponse({"points": []})
    if request.url.path.startswith("/download"):
        return HTMLResponse("<p>report</p>", headers={"content-disposition": "attachment"})
    return HTMLResponse("<title>Roundhouse</title>")


client = TestClient(UnknownPages(Starlette(routes=[Route("/{path:path}", _any)]), addresses=routes.addresses()))


@pytest.mark.parametrize(
    "path", ["/", "/runs", "/runs/", "/run?run=x", "/ballot?link=secret", "/auth/login", "/live/x", "/download/report"]
)
def test_existing_addresses_pass(path: str) -> None:
    assert client.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/nosuch", "/runs/nosuch", "/Runs.html", "/run%3Frun=x"])
def test_an_unknown_page_is_a_404_with_a_link_back(path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert 'href="/"' in answer.text


def test_the_address_that_was_probably_meant_is_offered() -> None:
    assert 'href="/datasets"' in client.get("/dataset").text
    assert 'href="/people"' in client.get("/keys").text


def test_the_address_is_shown_as_text() -> None:
    assert "<script>alert" not in client.get("/<script>alert(1)</script>").text
