"""Tasks are found, suggested, saved for the team, and refused before the queue where they don't fit the rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

from backend.cli import eval as eval_commands
from backend.cli.evaluation import task as task_commands
from backend.domain.data.rows.records import record_text
from backend.domain.evaluation.config import EvaluationConfig, EvaluationKind
from backend.domain.evaluation.tasks.definition import TaskDefinition
from backend.errors import InvalidInput, NotAllowed, NotFound
from backend.services.context import LOCAL, Context
from backend.services.data.datasets import resolve_version
from backend.services.evaluation.evaluations import plan_evaluation
from backend.services.evaluation.tasks import (
    delete_task,
    find_single_task,
    get_task,
    list_tasks,
    preview_task,
    save_task,
    suggest_tasks,
)
from tests.support.data.task_rows import TASK_ROWS
from tests.support.evaluation_world import claim_of
from tests.support.jobs import list_jobs
from tests.support.scenario import Scenario

OWN = """
name: capitals
kind: multiple_choice
prompt: "{{question}}"
choices: choices
answer: answer
fewshot: {count: 2}
"""


def records(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"record": record_text(row)} for row in rows]


@pytest.fixture(autouse=True)
def _datasets_of_tasks(scenario: Scenario) -> None:
    scenario.checkpoint("Oak")
    scenario.benchmark("facts")
    scenario.benchmark("ifeval", records(TASK_ROWS["ifeval"]), kind="records")
    scenario.benchmark("science", records(TASK_ROWS["bbq"]), kind="records")


def test_a_task_is_launched_with_its_own_copy(ctx: Context, scenario: Scenario) -> None:
    save_task(ctx, OWN, person=LOCAL)
    task = find_single_task(ctx, "capitals")
    launched = scenario.evaluation("Oak", "facts", task=task)
    assert (launched.kind, launched.settings["task"], launched.settings["shots"]) == (
        EvaluationKind.MULTIPLE_CHOICE,
        task.hash,
        2,
    )
    assert claim_of(ctx, launched).payload.config.task == task
    assert launched.main_metric == "acc"
    other = find_single_task(ctx, OWN.replace("count: 2", "count: 1"))
    second = scenario.evaluation("Oak", "facts", task=other)
    assert second.fingerprint != launched.fingerprint
    delete_task(ctx, "capitals", person=LOCAL)
    with pytest.raises(NotFound):
        get_task(ctx, "capitals")


def test_a_task_that_runs_code_needs_the_operators_permission(ctx: Context, scenario: Scenario) -> None:
    scenario.benchmark("humaneval", records(TASK_ROWS["humaneval"]), kind="records")
    config = EvaluationConfig(task=find_single_task(ctx, "humaneval"))
    with pytest.raises(NotAllowed, match="ROUNDHOUSE_RUN_CODE"):
        scenario.evaluation("Oak", "humaneval", config=config)
    allowed = replace(ctx, policy=replace(ctx.policy, run_code=True))
    launched = Scenario(allowed).evaluation("Oak", "humaneval", config=config)
    assert claim_of(allowed, launched).payload.run_code is True


def test_a_task_finds_its_dataset_by_name(ctx: Context, scenario: Scenario) -> None:
    task = find_single_task(ctx, "ifeval")
    assert scenario.evaluation("Oak", "", task=task).benchmark == "ifeval@1"
    with pytest.raises(InvalidInput, match=r"“GSM8K” needs a dataset named gsm8k.*there is.*openai/gsm8k.*Import it"):
        plan_evaluation(ctx, benchmark="", config=EvaluationConfig(task=find_single_task(ctx, "gsm8k")))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": "{{passage}}"}, "Row 1: `prompt` .*reads the column `passage`"),
        ({"answer": "answer + 1"}, "Row 2: `answer` is 2, and the 2 choices are counted from 0 to 1"),
        ({"choices": "question"}, "Row 1: `choices` gives .* not a list"),
        ({"fewshot": {"count": 40}}, "All 40 rows serve as examples"),
        ({"fewshot": {"count": 41}}, "41 examples are needed, and the source of examples has 40 rows"),
        ({"data": {"where": "answer == 7"}}, "None of the 40 rows meets the condition"),
    ],
)
def test_a_task_that_does_not_fit_is_refused_before_the_queue(ctx: Context, change: dict[str, Any], words: str) -> None:
    values = {**find_single_task(ctx, OWN).model_dump(exclude_defaults=True), "fewshot": {}, **change}
    with pytest.raises(InvalidInput, match=words):
        Scenario(ctx).evaluation("Oak", "facts", task=TaskDefinition.model_validate(values))
    assert list_jobs(ctx) == []


OPEN = "name: open\nkind: generation\nprompt: '{{question}}'\n"


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("ifeval", "Row 1: The metric ifeval can't score it: The row has no instructions"),
        ("exact_match", "Row 1: The metric exact_match compares with right answers, and the task names none"),
    ],
)
def test_a_metric_that_the_rows_can_not_serve_is_refused_in_the_preview_and_before_the_queue(
    ctx: Context, metric: str, words: str
) -> None:
    """The preview said that all rows are scored, and the evaluation failed minutes later in the queue."""
    text = f"{OPEN}metrics: [{metric}]\n"
    with pytest.raises(InvalidInput, match=words):
        preview_task(ctx, text, resolve_version(ctx, "facts"))
    with pytest.raises(InvalidInput, match=words):
        Scenario(ctx).evaluation("Oak", "facts", task=find_single_task(ctx, text))
    assert list_jobs(ctx) == []


def test_rows_as_they_are_need_a_task(scenario: Scenario) -> None:
    with pytest.raises(InvalidInput, match="Choose a task"):
        scenario.evaluation("Oak", "ifeval")


def test_tasks_are_suggested_by_name_and_by_columns(ctx: Context, scenario: Scenario) -> None:
    def suggested(name: str) -> list[str]:
        return [view.name for view in suggest_tasks(ctx, resolve_version(ctx, name))]

    assert suggested("ifeval")[0] == "ifeval"
    assert suggested("science")[0] == "bbq"
    assert suggested("facts") == []
    row = {"input": "not True is", "target": "False"}
    scenario.benchmark("one file", records([row]), kind="records")
    assert suggested("one file") == [], "its subtask, which the examples need, is not known"
    scenario.benchmark("two files", records([{**row, "file": "bbh/boolean_expressions.json"}]), kind="records")
    assert suggested("two files") == ["bbh"]


def test_the_team_replaces_its_tasks_and_keeps_the_names_of_the_product(ctx: Context) -> None:
    save_task(ctx, OWN, person=LOCAL)
    save_task(ctx, OWN.replace("count: 2", "count: 1"), person=LOCAL)
    assert [task.name for task in list_tasks(ctx) if task.origin == "team"] == ["capitals"]
    assert find_single_task(ctx, "capitals").fewshot.count == 1
    with pytest.raises(InvalidInput, match="comes with the product"):
        save_task(ctx, OWN.replace("capitals", "boolq"), person=LOCAL)
    with pytest.raises(InvalidInput, match="group of tasks"):
        find_single_task(ctx, "core")


def test_a_preview_shows_the_first_prompts_and_names_the_line_at_fault(ctx: Context) -> None:
    version = resolve_version(ctx, "facts")
    preview = preview_task(ctx, OWN, version)
    assert (preview.rows, preview.scored, len(preview.prompts)) == (40, 38, 3)
    assert preview.prompts[0].context == "Question 0? yes\n\nQuestion 1? no\n\nQuestion 2?"
    with pytest.raises(InvalidInput, match="Line 4: Row 2: `prompt`"):
        preview_task(
            ctx,
            OWN.replace("{{question}}", "{{passage if answer else question}}").replace("count: 2", "count: 0"),
            version,
            count=3,
        )


def test_the_command_line_lists_checks_runs_and_converts_tasks(
    ctx: Context, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(task_commands, "get_context", lambda: ctx)
    monkeypatch.setattr(eval_commands, "get_context", lambda: ctx)
    file = tmp_path / "own.yaml"
    file.write_text(OWN)

    def printed(call: Any, *args: Any, **options: Any) -> Any:
        call(*args, **options, as_json=True)
        return json.loads(capsys.readouterr().out)

    names = {task["name"]: task for task in printed(task_commands.list_)["tasks"]}
    assert names["gsm8k"]["metrics"] == [
        "exact_match_verbatim",
        *(f"exact_match_verbatim,{name}" for name in ("strict-match", "flexible-extract")),
    ]
    assert [task["name"] for task in printed(task_commands.list_, benchmark="ifeval")["tasks"]] == ["ifeval"]
    checked = printed(task_commands.check, str(file), benchmark="facts", prompts=1)
    assert (checked["scored"], checked["prompts"][0]["continuations"]) == (38, [" yes", " no"])
    run = printed(eval_commands.run, checkpoint="Oak", benchmark="facts", task=str(file), shots=0)
    assert (run["settings"]["task_name"], run["settings"]["shots"]) == ("capitals", 0)
    written = tmp_path / "theirs.yaml"
    written.write_text(printed(task_commands.convert, to_lm_eval_name="boolq")["text"])
    assert "name: boolq" in printed(task_commands.convert, from_lm_eval_file=written)["text"]
    with pytest.raises(typer.Exit):
        printed(task_commands.check, str(tmp_path / "absent.yaml"))
    assert "no file" in capsys.readouterr().out
