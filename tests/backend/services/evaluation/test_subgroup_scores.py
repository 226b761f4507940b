"""Scores of subgroups keep their names whole, however many there are and however long they are, on both databases."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from backend.domain.evaluation.tasks.definition import TaskDefinition
from backend.domain.evaluation.tasks.reading import read_task, shipped_definition
from backend.domain.evaluation.tasks.templates import TemplateFault
from backend.services.context import Context
from backend.services.evaluation.evaluations import EvaluationView, get_evaluation
from jobs.evaluation.items import ScoredItem
from jobs.evaluation.ledger import ItemLedger
from jobs.evaluation.task_estimates import estimate_task
from tests.support.evaluation_world import claim_of, finish, item
from tests.support.jobs import MemoryReporter
from tests.support.scenario import Scenario

OWN = """
name: own
kind: multiple_choice
subgroup: topic
prompt: "{{question}}"
choices: "['yes', 'no']"
answer: 0
metrics: [acc]
groups: {rest: [a]}
"""


def shipped(name: str) -> TaskDefinition:
    """Return a task that comes with the product."""
    task = shipped_definition(name)
    assert isinstance(task, TaskDefinition)
    return task


def subtasks_of_bbh() -> list[str]:
    """Return the names of the 27 subtasks, from the examples of the task."""
    return list(dict.fromkeys(str(row["subtask"]) for row in shipped("bbh").fewshot.examples))


def paradigms_of_blimp() -> list[str]:
    """Return the names of the 67 paradigms, from the files of lm-evaluation-harness."""
    names = (
        file.name.removesuffix(".yaml")
        for file in files("lm_eval.tasks.blimp").iterdir()
        if file.name.endswith(".yaml")
    )
    return sorted(name for name in names if not name.startswith("_"))


def scored_by_subgroup(
    ctx: Context, folder: Path, task: TaskDefinition, rows: list[dict[str, Any]], subgroups: list[str]
) -> EvaluationView:
    """Score two items of each subgroup, one of them right, as the job does, and record them as the worker does."""
    metric = task.metric_uses[0].name
    Scenario(ctx).benchmark(task.name, rows)
    launched = Scenario(ctx).evaluation("Oak", task.name, task=task)
    ledger = ItemLedger(folder / "items.jsonl", MemoryReporter(), fingerprint="f")
    numbered = [
        (number, subgroup, number % 2) for number, subgroup in enumerate(name for name in subgroups for _ in range(2))
    ]
    ledger.add(
        ScoredItem(f"hash {n}", n, {metric: float(right)}, {"subgroup": subgroup}) for n, subgroup, right in numbered
    )
    scores = [score.model_dump() for score in estimate_task(task, ledger)]
    items = [item(n, {metric: float(right)}, subgroup=subgroup) for n, subgroup, right in numbered]
    finish(ctx, claim_of(ctx, launched), items, scores=scores, facts={"unit": "items"})
    return get_evaluation(ctx, launched.id)


@pytest.mark.parametrize(
    ("name", "subgroups", "count", "row"),
    [
        ("bbh", subtasks_of_bbh(), 27, {"input": "not True is", "target": "False", "subtask": ""}),
        (
            "blimp",
            paradigms_of_blimp(),
            67,
            {"sentence_good": "Cats sleep.", "sentence_bad": "Cats sleeps.", "UID": ""},
        ),
    ],
)
def test_every_subgroup_of_a_published_set_has_its_score(
    any_ctx: Context, tmp_path: Path, name: str, subgroups: list[str], count: int, row: dict[str, Any]
) -> None:
    """Names were cut to 40 characters: two `tracking_shuffled_objects_*` met, and the evaluation failed after all its
    items.
    """
    assert len(subgroups) == count
    part = next(column for column, value in row.items() if value == "")
    evaluation = scored_by_subgroup(
        any_ctx, tmp_path, shipped(name), [row | {part: one} for one in subgroups], subgroups
    )
    metric = evaluation.main_metric
    assert [score.subgroup for score in evaluation.scores if score.subgroup and score.metric == metric] == subgroups
    assert {score.value for score in evaluation.scores if score.subgroup} == {0.5}
    assert evaluation.average_of(metric) in (f"macro over {count} subgroups", "micro over items")
    assert evaluation.main_score is not None
    assert evaluation.main_score.n == 2 * count


def test_long_names_of_a_users_own_that_differ_in_their_last_letter_stay_apart(
    any_ctx: Context, tmp_path: Path
) -> None:
    topics = [f"{'Fragen der Wasserwirtschaftsverwaltung ' * 10}{letter}"[-400:] for letter in "äßa"]
    rows = [{"question": topic[-1], "topic": topic} for topic in topics]
    evaluation = scored_by_subgroup(any_ctx, tmp_path, read_task(OWN), rows, topics)
    assert [score.subgroup for score in evaluation.scores if score.subgroup] == topics


@pytest.mark.parametrize(
    ("topic", "message"),
    [("x" * 401, "401 characters"), ("rest", '"rest" has the name of a group')],
    ids=["too long", "a group's name"],
)
def test_a_name_that_no_score_can_have_is_refused_before_anything_is_computed(
    scenario: Scenario, topic: str, message: str
) -> None:
    scenario.benchmark("own", [{"question": "Is it?", "topic": "a"}, {"question": "Is that?", "topic": topic}])
    with pytest.raises(TemplateFault, match=rf"Row 2: .*{message}"):
        scenario.evaluation("Oak", "own", task=read_task(OWN))


def test_rows_without_a_subgroup_are_one_of_their_own(ctx: Context, tmp_path: Path) -> None:
    rows = [{"question": "Is it?", "topic": ""}, {"question": "Is that?", "topic": "a"}]
    evaluation = scored_by_subgroup(ctx, tmp_path, read_task(OWN), rows, ["unnamed", "a"])
    assert {(score.metric, score.subgroup) for score in evaluation.scores} == {
        *(("acc", part) for part in ("", "unnamed", "a", "rest")),
        ("acc:macro", ""),
    }
