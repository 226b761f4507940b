"""Signing in over HTTP, and the key that signs cookies."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from backend.bootstrap import read_secret
from backend.services.context import Context
from backend.services.people.accounts import COOKIE, add_user
from backend.web.sign_in import SignInGate, sign_in_routes


def test_a_form_signs_in_and_one_that_is_too_large_is_refused(ctx: Context) -> None:
    add_user(ctx, "maya", "correct horse battery")
    client = TestClient(Starlette(routes=sign_in_routes(lambda: ctx)), follow_redirects=False)
    form = {"name": "maya", "password": "correct horse battery", "next": "/runs"}
    answer = client.post("/auth/login", data=form)
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs")
    assert COOKIE in answer.cookies
    assert client.post("/auth/login", content=b"name=maya&password=" + b"x" * 100_000).status_code == 413


def test_every_process_signs_with_the_same_whole_key(tmp_path: Path) -> None:
    (tmp_path / "secret.key").touch()  # as a process left it that was killed between making and writing it
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: read_secret(tmp_path), range(8)))
    assert len(keys) == 1
    assert len(keys.pop()) == 64


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
def test_without_a_cookie_only_the_sign_in_the_ballot_and_the_bare_socket_are_open(ctx: Context, path: str, status: int) -> None:
    async def behind(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("behind the gate")(scope, receive, send)

    client = TestClient(SignInGate(behind, get_context=lambda: replace(ctx, sign_in=True)))
    assert client.put(path, content=b"a file", headers={"accept": "*/*"}).status_code == status
