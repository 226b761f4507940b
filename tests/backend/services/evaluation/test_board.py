"""The board: comparable evaluations in one column, the newest of each checkpoint, pending ones where their scores will
be.
"""

from __future__ import annotations

from backend.domain.evaluation.tasks.reading import read_task
from backend.services.context import LOCAL, Context
from backend.services.evaluation.board import rank_board, read_board
from backend.services.evaluation.evaluations import list_evaluations
from backend.services.jobs.jobs import stop_job
from backend.services.overview import group_results
from tests.support.evaluation_world import claim_of, finish, finish_choices, item
from tests.support.scenario import Scenario


def test_board_keeps_unlike_evaluations_apart_and_the_newest_of_a_checkpoint(ctx: Context, scenario: Scenario) -> None:
    scenario.evaluation("Oak", "facts", [1, 0, 1, 0])
    newest = scenario.evaluation("Elm", "facts", [1, 1, 1, 0])
    scenario.evaluation("Elm", "facts", [1, 0, 0, 0], shots=2)
    board = read_board(ctx)
    assert [column.label for column in board.columns] == ["facts@1", "facts@1 (2-shot)"]
    cells = {row.checkpoint: row.cells for row in board.rows}
    finished = cells["Elm"][board.columns[0].key].finished
    assert finished is not None
    assert finished.id == newest.id
    assert board.columns[1].key not in cells["Oak"]


def test_an_evaluation_under_way_stands_in_the_column_of_its_settings(ctx: Context, scenario: Scenario) -> None:
    scenario.evaluation("Oak", "facts", [1, 0, 1, 0])
    waiting = scenario.evaluation("Elm", "facts")
    other = scenario.evaluation("Elm", "facts", shots=1)
    board = read_board(ctx)
    assert board.is_active
    assert len(board.columns) == 2
    cells = next(row.cells for row in board.rows if row.checkpoint == "Elm")
    pending = [cells[column.key].pending for column in board.columns]
    assert [one.id for one in pending if one] == [waiting.id, other.id]
    again = scenario.evaluation("Oak", "facts", again=True)
    (cell,) = [row.cells[board.columns[0].key] for row in read_board(ctx).rows if row.checkpoint == "Oak"]
    assert cell.finished is not None  # the earlier scores stay while the new ones are measured
    assert cell.pending is not None
    assert cell.pending.id == again.id


def test_a_column_is_found_by_the_key_that_it_had_before_its_first_scores(ctx: Context, scenario: Scenario) -> None:
    first, second = scenario.evaluation("Oak", "facts"), scenario.evaluation("Elm", "facts")
    (before,) = read_board(ctx).columns
    finish_choices(ctx, first, [1, 0, 1, 0])
    board = read_board(ctx)
    (column,) = board.columns
    assert column.key != before.key, "the key is that of the items, which the first scores name"
    assert board.renamed == {before.key: column.key}
    assert board.column(before.key) == column
    cells = {row.checkpoint: row.cells[column.key] for row in board.rows}
    assert cells["Oak"].finished is not None
    assert cells["Elm"].pending is not None
    assert cells["Elm"].pending.id == second.id
    finish_choices(ctx, second, [1, 0, 1, 1])
    assert read_board(ctx).renamed == board.renamed


def test_a_launch_that_failed_has_no_column_of_its_own(ctx: Context, scenario: Scenario) -> None:
    """A wrong task left a column with "Failed" in the matrix for good."""
    scenario.evaluation("Oak", "facts", [1, 0, 1, 0])
    failed = scenario.evaluation("Elm", "facts", shots=1)
    assert len(read_board(ctx).columns) == 2, "while it waits its column is there"
    stop_job(ctx, failed.job_id or "", person=LOCAL)
    board = read_board(ctx)
    assert [column.label for column in board.columns] == ["facts@1"]
    assert [row.checkpoint for row in board.rows] == ["Oak"]
    assert [evaluation.id for evaluation in board.without_scores] == [failed.id]


def test_a_column_is_named_by_its_task_and_says_over_what_it_averages(ctx: Context, scenario: Scenario) -> None:
    """Columns were named lambada_development_plain_text@1 (LAMBADA), and macro averages only "Accuracy"."""
    rows = [{"question": f"Q{n}", "choices": ["a", "b"], "answer": 0, "subject": "xy"[n % 2]} for n in range(4)]
    for name in ("law", "law-test"):
        scenario.benchmark(name, rows)
        text = (
            "name: law\ntitle: Law\nkind: multiple_choice\nsubgroup: subject\naverage: macro\nprompt: '{{question}}'\n"
        )
        task = read_task(text + "choices: choices\nanswer: answer\n")
        launched = scenario.evaluation("Oak", name, task=task)
        score = {"value": 0.5, "stderr": 0.1, "low": 0.3, "high": 0.7, "n": 4, "method": "Wilson 95 %"}
        names = (("acc", ""), ("acc:micro", ""), ("acc", "x"), ("acc", "y"))
        scores = [{"metric": metric, "subgroup": subgroup, **score} for metric, subgroup in names]
        finish(
            ctx,
            claim_of(ctx, launched),
            [item(n, {"acc": 0.5}) for n in range(4)],
            scores=scores,
            facts={"unit": "items"},
        )
    first, second = read_board(ctx).columns
    assert (first.label, second.label) == ("Law (law-test@1)", "Law (law@1)")
    assert first.averages == {"acc": "macro over 2 subgroups", "acc:micro": "micro over items"}
    assert first.metrics == ("acc", "acc:micro")


def test_a_column_is_ranked_by_the_chosen_metric(ctx: Context, scenario: Scenario) -> None:
    scenario.evaluation("Oak", "facts", [1] * 20)
    scenario.evaluation("Elm", "facts", [1] * 4 + [0] * 16)
    board = read_board(ctx)
    (key,) = [column.key for column in board.columns]
    ranks = list(rank_board(ctx, board, [key])[key].values())
    assert [(rank.evaluation.checkpoint, rank.shares_first_place) for rank in ranks] == [("Oak", True), ("Elm", False)]
    assert rank_board(ctx, board, [key], metrics={key: "acc_norm"})[key] == {}  # no score has it


def test_one_headline_on_every_page_and_on_a_board_of_zeros_another_metric_is_named(ctx: Context) -> None:
    """The matrix showed 4.0 % of "answer contained" where the overview, the suite and the evaluation's page had an
    exact match of 0.0 %.
    """
    Scenario(ctx).benchmark("questions", [{"question": f"What is {n}?", "answers": [str(n)]} for n in range(4)])
    launched = Scenario(ctx).evaluation("Oak", "questions")
    score = {"stderr": None, "low": None, "high": None, "n": 4, "method": "Wilson 95 %"}
    scores = [{"metric": "exact_match", "value": 0.0, **score}, {"metric": "contains", "value": 0.5, **score}]
    items = [item(n, {"exact_match": 0.0, "contains": float(n % 2)}) for n in range(4)]
    finish(ctx, claim_of(ctx, launched), items, scores=scores, facts={"unit": "items"})
    (column,) = read_board(ctx).columns
    assert (column.metric, column.telling, column.metrics) == ("exact_match", "contains", ("exact_match", "contains"))
    (evaluation,) = list_evaluations(ctx)
    assert evaluation.main_score is not None
    assert evaluation.main_score.metric == column.metric
    (results,) = group_results([evaluation])
    assert results.metric == column.metric


def test_a_benchmark_that_is_scored_in_two_ways_is_named_with_each(ctx: Context, scenario: Scenario) -> None:
    """BLiMP (without its file) stood beside blimp30@1 (without its task), and the overview had two tables of one
    name.
    """
    text = "name: law\ntitle: Law\nkind: multiple_choice\nprompt: '{{question}}'\nchoices: choices\nanswer: answer\n"
    evaluations = [
        scenario.evaluation("Oak", "facts", [1, 0, 1, 1]),
        scenario.evaluation("Oak", "facts", [1, 0, 0, 1], task=read_task(text)),
    ]
    labels = ["facts@1 (Multiple choice)", "Law (facts@1)"]
    assert sorted(column.label for column in read_board(ctx).columns) == sorted(labels)
    assert [one.title for one in group_results(evaluations)] == labels


LAW = "name: law\ntitle: Law\nkind: multiple_choice\nprompt: '{{question}}'\nchoices: choices\nanswer: answer\n"
QUESTIONS = [{"question": f"Q{n}", "choices": ["a", "b"], "answer": 0} for n in range(4)]


def test_one_file_of_a_benchmark_does_not_stand_as_the_whole(ctx: Context, scenario: Scenario) -> None:
    """One of the 67 files of BLiMP stood as "BLiMP"."""
    for name in ("contract_of_sale", "law-test"):
        scenario.benchmark(name, QUESTIONS)
        scenario.evaluation("Oak", name, [1, 0, 1, 1], task=read_task(LAW))
    assert [column.label for column in read_board(ctx).columns] == ["Law", "Law (contract_of_sale@1)"]
