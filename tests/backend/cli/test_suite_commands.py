"""`roundhouse eval suite` says what the services do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from backend.cli.main import app
from backend.services.context import LOCAL, Context
from backend.services.evaluation.tasks import save_task
from tests.support.scenario import Scenario


def call(*words: str, fails: bool = False) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*words, "--json"])
    assert (result.exit_code != 0) == fails, result.output
    return dict(json.loads(result.stdout))


def test_a_suite_is_created_run_and_shown(command_line: Context, tmp_path: Path) -> None:
    Scenario(command_line).evaluation("Oak", "facts", [1, 1, 1, 0])
    file = tmp_path / "core.yaml"
    file.write_text("name: core\nmembers:\n  - facts\n")
    assert call("eval", "suite", "create", str(file))["name"] == "core"
    assert (
        "already a suite"
        in call("eval", "suite", "create", "--name", "core", "--benchmark", "facts", fails=True)["error"]
    )
    assert [suite["name"] for suite in call("eval", "suite", "list")["suites"]] == ["core"]
    result = call("eval", "suite", "run", "core", "--checkpoint", "Oak", "--wait")
    assert (result["finished"], result["macro"]["value"], result["members"][0]["scores"][0]["value"]) == (1, 0.75, 0.75)
    assert call("eval", "suite", "show", "core")["results"] == [call("eval", "suite", "show", result["result"])]
    assert "Did you mean" in call("eval", "suite", "show", "cora", fails=True)["error"]


def test_a_group_of_tasks_runs_as_a_suite(command_line: Context, tmp_path: Path) -> None:
    Scenario(command_line).checkpoint("Oak")
    Scenario(command_line).benchmark("facts")
    for name in ("first", "second"):
        text = (
            f"name: {name}\nkind: multiple_choice\nprompt: '{{{{question}}}} {name}'\nchoices: choices\nanswer:"
            " answer\n"
        )
        save_task(command_line, text, person=LOCAL)
    file = tmp_path / "both.yaml"
    file.write_text("name: both\ntasks: [first, second]\n")
    words = ("eval", "run", "--task", str(file), "--checkpoint", "Oak")
    assert "needs a dataset named first" in call(*words, fails=True)["error"]
    result = call(*words, "--benchmark", "facts", "--limit", "8")
    assert (result["suite"], [member["benchmark"] for member in result["members"]]) == ("both", ["facts", "facts"])
    assert {member["status"] for member in result["members"]} == {"queued"}
    assert call(*words, "--benchmark", "facts", "--limit", "8")["suite"] == "both"
    assert call(*words, "--benchmark", "facts", "--limit", "4")["suite"] == "both 2"


def test_an_evaluation_without_a_task_names_the_one_that_pages_and_suites_would_use(command_line: Context) -> None:
    Scenario(command_line).checkpoint("Oak")
    good = [f"{n} cats sleep." for n in range(4)]
    rows = [
        {"question": "", "choices": [one, one.replace("sleep", "sleeps")], "answer": 0, "UID": "verbs"}
        | {"sentence_good": one, "sentence_bad": one.replace("sleep", "sleeps")}
        for one in good
    ]
    Scenario(command_line).benchmark("pairs", rows)
    Scenario(command_line).benchmark("facts")
    words = ("eval", "run", "--checkpoint", "Oak", "--benchmark")
    assert "--task blimp" in CliRunner().invoke(app, [*words, "pairs"]).stderr
    for others in (("facts",), ("pairs", "--kind", "multiple_choice")):
        assert "--task" not in CliRunner().invoke(app, [*words, *others]).stderr
