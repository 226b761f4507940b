"""Matrices through a real gateway: answers by row and endpoint, errors in cells, stopping, lost servers, owners, and
tasks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from backend.db.tables import PromptMatrix
from backend.domain.serving.chat import AnswerSettings
from backend.domain.serving.prompt_matrix import MatrixCell
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound, RoundhouseError
from backend.services.context import LOCAL, Context, Person
from backend.services.data.datasets import resolve_version
from backend.services.evaluation.tasks import find_single_task, preview_task
from backend.services.people.accounts import add_user
from backend.services.serving import prompt_matrices
from backend.services.serving.chat.generation import ANSWERS, AnswerProgress
from backend.services.serving.prompt_matrices import (
    MatrixView,
    dataset_rows,
    delete_matrix,
    get_matrix,
    list_prompt_matrices,
    save_as_task,
    start_matrix,
    stop_matrix,
)
from backend.services.serving.prompts import PromptView, get_prompt, save_prompt
from tests.support.gateway_fixtures import eventually
from tests.support.networks.chat_world import ChatWorld
from tests.support.scenario import Scenario

SETTINGS = AnswerSettings(temperature=0.0, max_tokens=16)


@pytest.fixture
def prompt(chat: ChatWorld) -> PromptView:
    return save_prompt(chat.ctx, "retell", {"system": "Be {{tone}}.", "text": "Retell {{tale}}"}, person=LOCAL)


ROWS = [{"tone": "brief", "tale": "the mill"}, {"tone": "kind", "tale": "{{ tone }}"}]


def start(
    chat: ChatWorld,
    prompt: PromptView,
    *,
    rows: Sequence[dict[str, Any]] = ROWS,
    endpoints: Sequence[str] = ("tales", "verse"),
    person: Person = LOCAL,
) -> str:
    return start_matrix(chat.ctx, prompt, 1, rows=rows, endpoints=endpoints, settings=SETTINGS, person=person)


def ended(chat: ChatWorld, matrix: str) -> MatrixView:
    def look() -> MatrixView | None:
        view = get_matrix(chat.ctx, matrix, prompt="retell")
        return None if view.is_running else view

    return eventually(look)  # type: ignore[no-any-return]


def test_every_endpoint_answers_every_row_once_with_its_prompt(chat: ChatWorld, prompt: PromptView) -> None:
    view = ended(chat, start(chat, prompt))
    assert view.status == "done"
    assert [cell.text for cell in view.answers.cells] == ["w0 w1 w2 "] * 4
    assert all(cell.completion_tokens == 3 and cell.total_ms for cell in view.answers.cells)
    for replica in chat.replicas.values():
        asked = sorted(tuple(message["content"] for message in body["messages"]) for body in replica.bodies)
        assert asked == [("Be brief.", "Retell the mill"), ("Be kind.", "Retell {{ tone }}")]
    (line,) = list_prompt_matrices(chat.ctx, "retell")
    assert (line.id, line.num_rows, line.num_endpoints, line.status) == (view.id, 2, 2, "done")


def test_an_endpoint_that_fails_is_an_error_in_its_cells_alone(chat: ChatWorld, prompt: PromptView) -> None:
    chat.replicas["verse"].script = "refuse:400:invalid_request"
    view = ended(chat, start(chat, prompt))
    assert view.status == "done"
    for row in range(2):
        assert view.answers.cell(row, 0).status == "done"
        assert view.answers.cell(row, 1).status == "failed"
        assert view.answers.cell(row, 1).error


def test_a_list_of_matrices_counts_rows_and_endpoints_without_reading_answers(
    chat: ChatWorld, prompt: PromptView
) -> None:
    matrix = ended(chat, start(chat, prompt, endpoints=["tales"])).id
    with chat.ctx.db.write() as session:
        answers = '{"rows": [{}, {}, {}], "endpoints": ["tales"], "cells": 5}'
        session.execute(text("UPDATE prompt_matrices SET answers = :answers"), {"answers": answers})
    (line,) = list_prompt_matrices(chat.ctx, "retell")
    assert (line.id, line.num_rows, line.num_endpoints) == (matrix, 3, 1)
    with pytest.raises(RoundhouseError, match="prompt_matrices"):
        get_matrix(chat.ctx, matrix, prompt="retell")


def test_an_unexpected_error_ends_its_answer_alone_and_says_so(
    chat: ChatWorld, prompt: PromptView, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = AnswerProgress.take

    def fail_once(progress: AnswerProgress, chunk: dict[str, Any]) -> str:
        monkeypatch.setattr(AnswerProgress, "take", take)
        raise ArithmeticError("overflow")

    monkeypatch.setattr(AnswerProgress, "take", fail_once)
    view = ended(chat, start(chat, prompt))
    assert view.status == "done"
    assert sorted(cell.status for cell in view.answers.cells) == ["done", "done", "done", "failed"]
    (error,) = {cell.error for cell in view.answers.cells if cell.status == "failed"}
    assert "unexpected error" in error


def test_a_matrix_that_can_not_begin_says_why(
    chat: ChatWorld, prompt: PromptView, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(ctx: Context) -> str:
        raise InvalidInput("The secret can't be read.", remedy="Restore it.")

    monkeypatch.setattr(prompt_matrices, "playground_key", refuse)
    view = ended(chat, start(chat, prompt))
    assert {(cell.status, cell.error) for cell in view.answers.cells} == {
        ("failed", "The secret can't be read. Restore it.")
    }


def test_answers_that_are_stored_late_do_not_replace_the_last_ones(chat: ChatWorld, prompt: PromptView) -> None:
    view = ended(chat, start(chat, prompt))
    early = view.answers.model_copy(update={"cells": (MatrixCell(status="running"),) * 4})
    assert prompt_matrices._store(chat.ctx, view.id, early, "running") == "done"
    assert get_matrix(chat.ctx, view.id, prompt="retell").answers == view.answers


def test_stop_keeps_what_arrived_and_ends_the_generation(chat: ChatWorld, prompt: PromptView) -> None:
    chat.replicas["tales"].tokens, chat.replicas["tales"].delay_s = 10_000, 0.01
    rows = [ROWS[0]] * 8
    matrix = start(chat, prompt, rows=rows, endpoints=["tales"])
    eventually(lambda: len(chat.replicas["tales"].bodies) >= 4)
    eventually(lambda: any(cell.text for cell in get_matrix(chat.ctx, matrix, prompt="retell").answers.cells))
    stop_matrix(chat.ctx, matrix, person=LOCAL)
    view = ended(chat, matrix)
    assert view.status == "stopped"
    assert {cell.status for cell in view.answers.cells} == {"stopped"}
    assert any(cell.text.startswith("w0 ") for cell in view.answers.cells)
    assert len(chat.replicas["tales"].bodies) == 4, "those that waited were not asked"
    eventually(lambda: chat.replicas["tales"].left == 4)


def test_a_stop_in_another_process_reaches_the_one_that_generates(chat: ChatWorld, prompt: PromptView) -> None:
    chat.replicas["tales"].tokens, chat.replicas["tales"].delay_s = 10_000, 0.01
    matrix = start(chat, prompt, endpoints=["tales"])
    with chat.ctx.db.write() as session:
        session.get_one(PromptMatrix, matrix).status = "stopping"
    assert ended(chat, matrix).status == "stopped"


def test_a_matrix_whose_server_ended_says_so_and_keeps_what_it_has(chat: ChatWorld, prompt: PromptView) -> None:
    chat.replicas["tales"].tokens, chat.replicas["tales"].delay_s = 10_000, 0.01
    matrix = start(chat, prompt, endpoints=["tales"])
    eventually(lambda: chat.replicas["tales"].bodies)
    ANSWERS.close()
    view = get_matrix(chat.ctx, matrix, prompt="retell")
    assert (view.status, {cell.status for cell in view.answers.cells}) == ("failed", {"failed"})
    assert "server stopped" in view.answers.cells[0].error
    with chat.ctx.db.write() as session:
        row = session.get_one(PromptMatrix, matrix)
        row.status, row.updated_at = "running", chat.ctx.now() - timedelta(minutes=1)
    assert get_matrix(chat.ctx, matrix, prompt="retell").status == "failed", "a killed server wrote no end"


@pytest.mark.parametrize(
    ("rows", "endpoints", "error", "said"),
    [
        (ROWS, ["nosuch"], NotFound, "nosuch"),
        (ROWS, [], InvalidInput, "No endpoint"),
        (ROWS, ["tales", "tales"], InvalidInput, "twice"),
        (ROWS * 26, ["tales"], InvalidInput, "52 rows"),
        ([{"tone": "kind"}], ["tales"], InvalidInput, "tale"),
        (
            [*ROWS, {"tone": "kind", "tale": "x" * 20_001}],
            ["tales"],
            InvalidInput,
            "“tale” has 20,001 characters in row 3",
        ),
    ],
)
def test_what_can_not_be_tried_is_refused_before_anything_is_asked(
    chat: ChatWorld, prompt: PromptView, rows: list[dict[str, Any]], endpoints: list[str], error: type, said: str
) -> None:
    with pytest.raises(error, match=said):
        start(chat, prompt, rows=rows, endpoints=endpoints)
    assert not any(replica.bodies for replica in chat.replicas.values())
    assert list_prompt_matrices(chat.ctx, "retell") == []


def test_another_account_reads_a_matrix_but_neither_stops_nor_deletes_it(chat: ChatWorld, prompt: PromptView) -> None:
    ada, bo = (add_user(chat.ctx, name, "a long password", role="engineer", person=LOCAL) for name in ("ada", "bo"))
    matrix = ended(chat, start(chat, prompt, person=ada)).id
    for act in (stop_matrix, delete_matrix):
        with pytest.raises(NotAllowed):
            act(chat.ctx, matrix, person=bo)
    with pytest.raises(NotFound):
        get_matrix(chat.ctx, matrix, prompt="another prompt")
    delete_matrix(chat.ctx, matrix, person=ada)
    assert list_prompt_matrices(chat.ctx, "retell") == []


def test_rows_of_a_dataset_are_its_columns_and_a_missing_one_is_named(chat: ChatWorld) -> None:
    label = Scenario(chat.ctx).benchmark("quiz", [{"question": f"Q{n}?", "answer": f"A{n}"} for n in range(9)])
    version = resolve_version(chat.ctx, label)
    body = save_prompt(chat.ctx, "ask", {"text": "Answer: {{question}}"}, person=LOCAL).newest.body
    assert dataset_rows(chat.ctx, version, body, limit=2) == [{"question": "Q0?"}, {"question": "Q1?"}]
    label = Scenario(chat.ctx).benchmark("sums", [{"question": math.nan}, {"question": 1.5}], kind="records")
    sums = dataset_rows(chat.ctx, resolve_version(chat.ctx, label), body, limit=2)
    assert sums == [{"question": None}, {"question": 1.5}], "NaN is not JSON"
    wrong = save_prompt(chat.ctx, "wrong", {"text": "Answer: {{questions}}"}, person=LOCAL).newest.body
    with pytest.raises(InvalidInput, match="questions") as caught:
        dataset_rows(chat.ctx, version, wrong, limit=2)
    assert "question" in caught.value.remedy


def test_a_task_made_of_a_prompt_asks_what_the_matrix_asked(chat: ChatWorld) -> None:
    rows = [{"question": f"Q{n}?", "answers": [f"A{n}", f"B{n}"], "answer": f"A{n}"} for n in range(3)]
    version = resolve_version(chat.ctx, Scenario(chat.ctx).benchmark("quiz", rows, kind="records"))
    save_prompt(chat.ctx, "ask", {"system": "Be brief.", "text": "Answer: {{question}}"}, person=LOCAL)
    body = get_prompt(chat.ctx, "ask").newest.body
    for name, expected, references in (("one", "answer", ("A0",)), ("many", "answers", ("A0", "B0"))):
        view = save_as_task(
            chat.ctx,
            name,
            body,
            expected=expected,
            metric="exact_match",
            version=version,
            settings=SETTINGS,
            person=LOCAL,
        )
        task = find_single_task(chat.ctx, view.name)
        assert (task.data.names, task.max_tokens, task.instruction) == (("quiz",), 16, "Be brief.")
        shown = preview_task(chat.ctx, view.text, version).prompts[0]
        assert "Answer: Q0?" in shown.context
        assert shown.references == references
    with pytest.raises(Conflict, match="one"):
        save_as_task(
            chat.ctx, "one", body, expected="answers", metric="f1", version=None, settings=SETTINGS, person=LOCAL
        )
    with pytest.raises(InvalidInput, match="answr") as caught:
        save_as_task(
            chat.ctx, "x", body, expected="answr", metric="f1", version=version, settings=SETTINGS, person=LOCAL
        )
    assert "answer" in caught.value.remedy
