"""`roundhouse user` and `roundhouse key`: what the People page does, from a shell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from backend.bootstrap import get_context
from backend.cli import key, user
from backend.services.people.sessions import person_from_cookie, sign_in
from tests.support.settings import name_installation

PASSWORD = "a long password"


@pytest.fixture(autouse=True)
def _installation(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name_installation(monkeypatch, home, ROUNDHOUSE_NEW_PASSWORD=PASSWORD)


def run(app: Any, *arguments: str) -> tuple[int, Any]:
    """Run a command with --json; return its exit status and document."""
    result = CliRunner().invoke(app, [*arguments, "--json"])
    return result.exit_code, json.loads(result.stdout)


def test_an_account_is_disabled_enabled_given_a_role_a_password_and_signed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, role in (("ada", "admin"), ("maya", "engineer")):
        assert run(user.app, "add", name, "--role", role) == (0, {"user": name, "role": role})
    ctx = get_context()
    cookie = sign_in(ctx, "maya", PASSWORD, address="a").session
    assert run(user.app, "signout", "maya")[0] == 0
    assert person_from_cookie(ctx, cookie) is None
    assert run(user.app, "role", "maya", "lead") == (0, {"user": "maya", "role": "lead"})
    monkeypatch.setenv("ROUNDHOUSE_NEW_PASSWORD", "another long password")
    assert run(user.app, "password", "maya")[0] == 0
    cookie = sign_in(ctx, "maya", "another long password", address="a").session
    assert run(user.app, "disable", "maya") == (0, {"user": "maya", "disabled": True})
    assert person_from_cookie(ctx, cookie) is None
    _, listed = run(user.app, "list")
    assert [(one["name"], one["role"], one["disabled_at"] is not None) for one in listed["users"]] == [
        ("ada", "admin", False),
        ("maya", "lead", True),
    ]
    assert "hash" not in json.dumps(listed)
    assert run(user.app, "limits", "maya") == (0, {"user": "maya", "limits": {}, "gpu_hours": None})
    _, limited = run(user.app, "limits", "maya", "--gpu-hours-per-week", "40")
    assert (limited["limits"], limited["gpu_hours"]["used"]) == ({"gpu_hours_per_week": 40}, 0)
    assert run(user.app, "list")[1]["users"][1]["limits"] == {"gpu_hours_per_week": 40}
    assert run(user.app, "limits", "maya", "--none")[1]["gpu_hours"] is None
    assert run(user.app, "enable", "maya") == (0, {"user": "maya", "disabled": False})


def test_the_last_admin_and_an_unknown_name_are_refused() -> None:
    run(user.app, "add", "ada", "--role", "admin")
    status, answer = run(user.app, "disable", "ada")
    assert status == 2
    assert "only admin" in answer["error"]
    status, answer = run(user.app, "role", "nobody", "lead")
    assert status == 2
    assert "'nobody'" in answer["error"]


def test_a_key_is_revoked_by_the_id_that_the_list_shows() -> None:
    run(key.app, "create", "bot")
    _, listed = run(key.app, "list")
    key_id = listed["keys"][0]["id"]
    assert run(key.app, "revoke", key_id) == (0, {"id": key_id, "name": "bot", "revoked": True})
    assert run(key.app, "list")[1]["keys"][0]["revoked_at"] is not None


def test_a_key_is_created_with_limits_changed_listed_and_revoked_by_name() -> None:
    options = ("--limits", "requests=60,tokens=100000,concurrency=4", "--models", "small", "--expires", "30d")
    status, created = run(key.app, "create", "bot", *options)
    assert status == 0
    assert created["key"].startswith("rh-")
    assert created["limits"] == {"requests": 60, "tokens": 100_000, "concurrency": 4}
    _, changed = run(key.app, "change", "bot", "--limits", "tokens_per_day=500")
    assert (changed["limits"], changed["scopes"]["models"]) == ({"tokens_per_day": 500}, ["small"])
    (listed,) = run(key.app, "list")[1]["keys"]
    assert (listed["state"], listed["used"]["day"]) == ("active", {"tokens": 0, "usd": 0.0})
    assert run(key.app, "revoke", "bot") == (0, {"id": created["id"], "name": "bot", "revoked": True})
    assert run(key.app, "list")[1]["keys"][0]["state"] == "revoked"
    status, problem = run(key.app, "create", "other", "--limits", "request=60")
    assert status == 2
    assert "request" in problem["error"]
