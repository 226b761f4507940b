"""The board: comparable evaluations in one column, the newest of each checkpoint, pending ones where their scores will
be.
"""

from __future__ import annotations

import pytest

from backend.domain.evaluation.config import EvaluationConfig
from backend.domain.evaluation.tasks.reading import read_task
from backend.services.context import LOCAL, Context
from backend.services.evaluation.board import rank_board, read_board
from backend.services.evaluation.evaluations import launch_evaluation, list_evaluations
from backend.services.jobs.jobs import stop_job
from backend.services.overview import group_results
from tests.support.battle_world import add_checkpoint
from tests.support.evaluation_world import CHOICES, add_benchmark, claim_of, evaluated, finish, item


@pytest.fixture
def world(ctx: Context) -> Context:
    """Three checkpoints and a benchmark."""
    for name in ("Oak", "Elm", "Ash"):
        add_checkpoint(ctx, name)
    add_benchmark(ctx, "facts", CHOICES)
    return ctx


def test_board_keeps_unlike_evaluations_apart_and_the_newest_of_a_checkpoint(world: Context) -> None:
    evaluated(world, "Oak", "facts", [1, 0, 1, 0])
    newest = evaluated(world, "Elm", "facts", [1, 1, 1, 0])
    evaluated(world, "Elm", "facts", [1, 0, 0, 0], shots=2)
    board = read_board(world)
    assert [column.label for column in board.columns] == ["facts@1", "facts@1 (2-shot)"]
    cells = {row.checkpoint: row.cells for row in board.rows}
    finished = cells["Elm"][board.columns[0].key].finished
    assert finished is not None
    assert finished.id == newest.id
    assert board.columns[1].key not in cells["Oak"]


def test_an_evaluation_under_way_stands_in_the_column_of_its_settings(world: Context) -> None:
    evaluated(world, "Oak", "facts", [1, 0, 1, 0])
    waiting = launch_evaluation(world, checkpoint="Elm", benchmark="facts", person=LOCAL)
    other = launch_evaluation(
        world, checkpoint="Elm", benchmark="facts", config=EvaluationConfig(shots=1), person=LOCAL
    )
    board = read_board(world)
    assert board.is_active
    assert len(board.columns) == 2
    cells = next(row.cells for row in board.rows if row.checkpoint == "Elm")
    pending = [cells[column.key].pending for column in board.columns]
    assert [one.id for one in pending if one] == [waiting.id, other.id]
    again = launch_evaluation(world, checkpoint="Oak", benchmark="facts", person=LOCAL, again=True)
    (cell,) = [row.cells[board.columns[0].key] for row in read_board(world).rows if row.checkpoint == "Oak"]
    assert cell.finished is not None  # the earlier scores stay while the new ones are measured
    assert cell.pending is not None
    assert cell.pending.id == again.id


def test_a_launch_that_failed_has_no_column_of_its_own(world: Context) -> None:
    """A wrong task left a column with "Failed" in the matrix for good."""
    evaluated(world, "Oak", "facts", [1, 0, 1, 0])
    failed = launch_evaluation(
        world, checkpoint="Elm", benchmark="facts", config=EvaluationConfig(shots=1), person=LOCAL
    )
    assert len(read_board(world).columns) == 2, "while it waits its column is there"
    stop_job(world, failed.job_id or "", person=LOCAL)
    board = read_board(world)
    assert [column.label for column in board.columns] == ["facts@1"]
    assert [row.checkpoint for row in board.rows] == ["Oak"]
    assert [evaluation.id for evaluation in board.without_scores] == [failed.id]


def test_a_column_is_named_by_its_task_and_says_over_what_it_averages(world: Context) -> None:
    """Columns were named lambada_development_plain_text@1 (LAMBADA), and macro averages only "Accuracy"."""
    rows = [{"question": f"Q{n}", "choices": ["a", "b"], "answer": 0, "subject": "xy"[n % 2]} for n in range(4)]
    for name in ("law", "law-test"):
        add_benchmark(world, name, rows)
        text = (
            "name: law\ntitle: Law\nkind: multiple_choice\nsubgroup: subject\naverage: macro\nprompt: '{{question}}'\n"
        )
        task = read_task(text + "choices: choices\nanswer: answer\n")
        launched = launch_evaluation(
            world, checkpoint="Oak", benchmark=name, config=EvaluationConfig(task=task), person=LOCAL
        )
        score = {"value": 0.5, "stderr": 0.1, "low": 0.3, "high": 0.7, "n": 4, "method": "Wilson 95 %"}
        names = (("acc", ""), ("acc:micro", ""), ("acc", "x"), ("acc", "y"))
        scores = [{"metric": metric, "subgroup": subgroup, **score} for metric, subgroup in names]
        finish(
            world,
            claim_of(world, launched),
            [item(n, {"acc": 0.5}) for n in range(4)],
            scores=scores,
            facts={"unit": "items"},
        )
    first, second = read_board(world).columns
    assert (first.label, second.label) == ("Law (law-test@1)", "Law (law@1)")
    assert first.averages == {"acc": "macro over 2 subgroups", "acc:micro": "micro over items"}
    assert first.metrics == ("acc", "acc:micro")


def test_a_column_is_ranked_by_the_chosen_metric(world: Context) -> None:
    evaluated(world, "Oak", "facts", [1] * 20)
    evaluated(world, "Elm", "facts", [1] * 4 + [0] * 16)
    board = read_board(world)
    (key,) = [column.key for column in board.columns]
    ranks = list(rank_board(world, board, [key])[key].values())
    assert [(rank.evaluation.checkpoint, rank.shares_first_place) for rank in ranks] == [("Oak", True), ("Elm", False)]
    assert rank_board(world, board, [key], metrics={key: "acc_norm"})[key] == {}  # no score has it


def test_one_headline_on_every_page_and_on_a_board_of_zeros_another_metric_is_named(world: Context) -> None:
    """The matrix showed 4.0 % of "answer contained" where the overview, the suite and the evaluation's page had an
    exact match of 0.0 %.
    """
    add_benchmark(world, "questions", [{"question": f"What is {n}?", "answers": [str(n)]} for n in range(4)])
    launched = launch_evaluation(world, checkpoint="Oak", benchmark="questions", person=LOCAL)
    score = {"stderr": None, "low": None, "high": None, "n": 4, "method": "Wilson 95 %"}
    scores = [{"metric": "exact_match", "value": 0.0, **score}, {"metric": "contains", "value": 0.5, **score}]
    items = [item(n, {"exact_match": 0.0, "contains": float(n % 2)}) for n in range(4)]
    finish(world, claim_of(world, launched), items, scores=scores, facts={"unit": "items"})
    (column,) = read_board(world).columns
    assert (column.metric, column.telling, column.metrics) == ("exact_match", "contains", ("exact_match", "contains"))
    (evaluation,) = list_evaluations(world)
    assert evaluation.main_score is not None
    assert evaluation.main_score.metric == column.metric
    (results,) = group_results([evaluation])
    assert results.metric == column.metric
