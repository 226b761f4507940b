"""`roundhouse eval endpoint` and `eval run --endpoint` say what the services do."""

from __future__ import annotations

import json
from typing import Any

from typer.testing import CliRunner

from backend.cli.main import app
from backend.services.context import Context
from tests.support.fake_api import serve_api
from tests.support.scenario import Scenario


def call(*words: str, fails: bool = False) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*words, "--json"])
    assert (result.exit_code != 0) == fails, result.output
    return dict(json.loads(result.stdout)) if not fails else {"error": result.output}


def test_an_api_is_added_listed_evaluated_by_name_or_address_and_removed(command_line: Context) -> None:
    Scenario(command_line).benchmark("questions")
    Scenario(command_line).benchmark("facts")
    with serve_api() as api:
        added = call("eval", "endpoint", "add", "Far", "--url", api.url, "--model", "m")
        assert (added["endpoint"], added["capabilities"]) == ("Far", {"chat": True, "completions": True, "echo": False})
        assert [one["endpoint"] for one in call("eval", "endpoint", "list")["endpoints"]] == ["Far"]
        run = call("eval", "run", "--endpoint", "Far", "--benchmark", "questions")
        assert (run["endpoint"], run["checkpoint"], run["status"], run["settings"]["engine"]) == (
            "Far",
            None,
            "queued",
            "openai_http",
        )
        same = call("eval", "run", "--endpoint", api.url, "--model", "m", "--benchmark", "questions")
        assert same["evaluation"] == run["evaluation"], "the address is the registered one"
        other = call("eval", "run", "--endpoint", api.url, "--model", "n", "--benchmark", "questions")
        assert other["endpoint"].startswith("n at 127.0.0.1")
        refused = call("eval", "run", "--endpoint", "Far", "--benchmark", "facts", fails=True)
        assert "does not echo" in " ".join(refused["error"].split())
        call("eval", "endpoint", "remove", "Far")
        call("eval", "run", "--endpoint", "Far", "--benchmark", "questions", fails=True)
