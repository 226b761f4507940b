"""A judge as a metric of a task: graded over real HTTP as answers come, unread verdicts missing and counted, each item
judged once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from backend.domain.evaluation.tasks.definition import TaskDefinition
from backend.errors import InvalidInput, JobFailed
from jobs.evaluation.judges import metric
from tests.support.evaluation_rooms import EvaluationRoom, Remembering
from tests.support.fake_api import FakeApi, serve_api

ROWS = [{"question": f"What is {n}?", "answer": str(n)} for n in range(6)]
SCORES = {0: "Score: 1", 1: "It is right. Score: 5", 2: "Score: 3", 3: "no idea", 4: "Score: 99", 5: "Score: 5"}


def task(**judge: Any) -> dict[str, Any]:
    return {
        "name": "numbers",
        "kind": "generation",
        "prompt": "{{question}}",
        "target": "{{answer}}",
        "metrics": [{"judge": {"endpoint": "grader", "low": 1, "high": 5, "explain": False, **judge}}, "exact_match"],
    }


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with serve_api() as served:

        def answer(prompt: str) -> str:
            number = next(n for n in range(6) if f"What is {n}?" in prompt)
            return SCORES[number] if prompt.startswith("You grade") else f"It is {number}."

        served.answer = answer
        yield served


@pytest.fixture
def room(tmp_path: Path) -> EvaluationRoom:
    room = EvaluationRoom(tmp_path)
    room.write("numbers", ROWS)
    return room


def payload(api: FakeApi) -> dict[str, Any]:
    target = {"name": "Far", "url": api.url, "model": "m", "capabilities": {"chat": True}, "concurrency": 2}
    judge = {
        "name": "grader",
        "endpoint": {**target, "name": "grader", "model": "j", "input_price": 1.0, "output_price": 2.0},
    }
    config = {"task": task()}
    return {
        "evaluation_id": "e",
        "endpoint": target,
        "judge": judge,
        "dataset": "numbers",
        "kind": "generation",
        "split": "all",
        "config": config,
        "fingerprint": "f",
    }


def test_a_judge_grades_the_answers_of_a_task_and_counts_what_it_could_not_read(
    room: EvaluationRoom, api: FakeApi
) -> None:
    reporter = Remembering()
    result = room.work("evaluate", payload(api), reporter=reporter)
    score = next(score for score in result["scores"] if score["metric"] == "judge")
    assert (score["value"], score["n"]) == (
        (0 + 1 + 0.5 + 1) / 4,
        4,
    ), "a share of the scale from 1 to 5; 99 is not on it"
    facts = result["facts"]["judge"]
    assert (facts["name"], facts["missing"], facts["prompt_tokens"], facts["completion_tokens"]) == (
        "grader",
        2,
        18,
        30,
    )
    assert facts["price_usd"] == pytest.approx((18 * 1 + 30 * 2) / 1e6)
    items = {event.position: event for event in reporter.all if event.type == "item"}
    assert items[1].shown["judge"] == "It is right. Score: 5"  # type: ignore[attr-defined]
    assert ("judge" in items[3].values, items[3].values["unjudged"]) == (False, 1.0)  # type: ignore[attr-defined]
    questions = [body["messages"][0]["content"] for _, body in api.received if body["model"] == "j"]
    assert len(questions) == 6
    assert all(f"What is {n}?" in "".join(questions) for n in range(6))


def test_a_stopped_evaluation_judges_no_recorded_item_twice(
    room: EvaluationRoom, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metric, "TOGETHER", 2)
    first = Remembering(stop_after=1)
    with pytest.raises(JobFailed):
        room.work("evaluate", payload(api), reporter=first)
    recorded = {event.position for event in first.all if event.type == "item"}  # type: ignore[attr-defined]
    assert recorded
    before = len(api.received)
    result = room.work("evaluate", payload(api))
    again = "".join(str(body) for _, body in api.received[before:])
    assert {n for n in range(6) if f"What is {n}?" in again} == set(range(6)) - recorded
    assert result["facts"]["judge"]["prompt_tokens"] == 18


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        ({"endpoint": ""}, "name one of them"),
        ({"checkpoint": "Oak"}, "name one of them"),
        ({"low": 9}, "low < high"),
        ({"critria": "x"}, "critria"),
    ],
    ids=["no judge", "two judges", "scale upside down", "unknown option"],
)
def test_a_judge_that_can_not_judge_is_refused_with_the_field(judge: dict[str, Any], words: str) -> None:
    with pytest.raises((ValidationError, InvalidInput), match=words):
        TaskDefinition.model_validate(task(**judge))


def test_the_judge_is_part_of_the_tasks_hash_and_a_task_has_one() -> None:
    first, second = (TaskDefinition.model_validate(task(endpoint=name)) for name in ("grader", "other"))
    assert first.hash != second.hash
    assert first.judge is not None
    assert first.score_names[0] == "judge"
    twice = task()
    twice["metrics"] = [twice["metrics"][0], twice["metrics"][0]]
    with pytest.raises(ValidationError, match="one judge"):
        TaskDefinition.model_validate(twice)
