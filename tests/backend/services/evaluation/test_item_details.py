"""Flipped, truncated and contaminated items, and calibration of the choices."""

from __future__ import annotations

import math
from typing import Any

import pytest
from sqlalchemy import select

from backend.db.tables import Analysis, Checkpoint, DatasetVersion
from backend.domain.data.reports.report import (
    BenchmarkChecked,
    Contamination,
    DataReport,
    Epoch,
    Packing,
    ReportQuestion,
)
from backend.domain.evaluation.config import EvaluationConfig
from backend.domain.evaluation.tasks.reading import read_task
from backend.domain.filters import FilterError
from backend.domain.jobs.events import event_of
from backend.domain.jobs.states import JobKind, Status
from backend.errors import NotFound
from backend.services import job_events as outcomes
from backend.services.context import Context
from backend.services.data.reports import FORMAT
from backend.services.evaluation import items as items_service
from backend.services.evaluation.calibrations import read_calibration
from backend.services.evaluation.comparisons import Pair, compare, open_pair
from backend.services.evaluation.contamination import check_contamination
from backend.services.evaluation.evaluations import EvaluationView, get_evaluation
from backend.services.evaluation.items import get_item, list_rivals
from backend.services.evaluation.pairs import group_pairs, read_paired_items
from tests.support.evaluation_world import (
    claim_of,
    finish,
    item,
    list_items,
)
from tests.support.jobs import add_stored_job
from tests.support.run_world import end
from tests.support.scenario import Scenario


def test_pairs_are_fixed_broken_or_wrong_in_both(ctx: Context, scenario: Scenario) -> None:
    oak = scenario.evaluation("Oak", "facts", [1, 1, 0, 0, 0])
    elm = scenario.evaluation("Elm", "facts", [1, 0, 1, 0, 0])
    comparison = compare(ctx, oak.id, elm.id)
    groups = group_pairs(ctx, comparison)
    places = {
        choice: [flip.first.position for flip in read_paired_items(ctx, comparison, hashes)]
        for choice, hashes in groups.items()
    }
    assert places == {"fixed": [2], "broken": [1], "both_wrong": [3, 4], "both_right": [0]}


def test_where_less_is_better_no_edits_are_right_and_fewer_are_a_repair(ctx: Context, scenario: Scenario) -> None:
    task = read_task(
        "name: e\nkind: generation\nprompt: '{{question}}'\ntarget: '{{answers[0]}}'\nmetrics: [edit_distance]\n"
    )
    config = EvaluationConfig(task=task)
    sides = []
    for name, edits in (("Oak", [0.0, 3.0, 2.0, 7.0]), ("Elm", [0.0, 1.0, 9.0, 7.0])):
        launched = scenario.evaluation(name, "questions", config=config)
        rows = [item(n, {"edit_distance": one}) for n, one in enumerate(edits)]
        score = {"metric": "edit_distance", "value": 3.0, "n": 4, "method": "mean"}
        finish(ctx, claim_of(ctx, launched), rows, scores=[score], facts={"unit": "items"})
        sides.append(get_evaluation(ctx, launched.id))
    outcomes = {which: list_items(ctx, sides[0].id, which=which)[0] for which in ("right", "wrong")}
    assert {which: [one.position for one in items] for which, items in outcomes.items()} == {
        "right": [0],
        "wrong": [1, 2, 3],
    }
    pair = Pair(*sides, "edit_distance")
    assert {
        choice: [flip.first.position for flip in read_paired_items(ctx, pair, hashes)]
        for choice, hashes in group_pairs(ctx, pair).items()
    } == {"fixed": [1], "broken": [2], "both_wrong": [3], "both_right": [0]}


def answered(ctx: Context, checkpoint: str, answers: list[tuple[str, float]]) -> EvaluationView:
    """An evaluation of generated answers, each with its exact match."""
    launched = Scenario(ctx).evaluation(checkpoint, "questions")
    items = [
        item(n, {"exact_match": right, "prompt_tokens": 10.0 * n}, completion=text, answer=[str(n)])
        for n, (text, right) in enumerate(answers)
    ]
    score = {"metric": "exact_match", "value": 0.5, "stderr": 0.1, "low": 0.3, "high": 0.7, "n": 4, "method": "Wilson"}
    finish(ctx, claim_of(ctx, launched), items, scores=[score], facts={"unit": "items"})
    return get_evaluation(ctx, launched.id)


def test_items_are_searched_without_regard_to_case_and_filtered_by_their_values(ctx: Context) -> None:
    Scenario(ctx).benchmark("questions")
    texts = ['Die ÄPFEL sind "rot"', "one\ntwo  three", "the ﬁle is 100%_done", "nothing"]
    launched = answered(ctx, "Oak", list(zip(texts, [1.0, 0.0, 0.0, 1.0], strict=True)))

    def found(**query: Any) -> list[int]:
        items, total = list_items(ctx, launched.id, **query)
        assert total == len(items)
        return [one.number for one in items]

    for text, numbers in {
        "äpfel": [1],
        'sind "ROT"': [1],
        "one two three": [2],
        "file": [3],  # written with a ligature
        "100%_": [3],
        "%": [3],
        "_o": [],
        "question": [1, 2, 3, 4],
        "exact_match": [],  # names of metrics and other keys are not text
    }.items():
        assert found(text=text) == numbers, text
    assert found(filter="score < 1 and prompt_tokens > 10") == [3]
    assert found(filter="item in (1, 4)", which="right", text="NOTHING") == [4]
    with pytest.raises(FilterError, match="At character 1: there is no field “scor”") as refused:
        found(filter="scor < 1")
    assert refused.value.remedy == "Did you mean score?"


def test_an_item_is_found_by_its_number_and_beside_the_answers_of_others(ctx: Context, scenario: Scenario) -> None:
    scenario.benchmark("questions")
    oak = answered(ctx, "Oak", [("zero", 0.0), ("1", 1.0)])
    elm = answered(ctx, "Elm", [("0", 1.0), ("one", 0.0)])
    shown = get_item(ctx, oak, "2")
    assert (shown.number, shown.shown["completion"]) == (2, "1")
    assert [(one.checkpoint, other.shown["completion"]) for one, other in list_rivals(ctx, oak, shown)] == [
        ("Elm", "one")
    ]
    assert [one.checkpoint for one, _ in list_rivals(ctx, elm, shown)] == ["Oak"]
    for wrong in ("3", "0", "-1", "two", "1e9", "9" * 30, "²"):
        with pytest.raises(NotFound, match=f"has no item “{wrong}") as refused:
            get_item(ctx, oak, wrong)
        assert refused.value.remedy == "Its 2 items have numbers from 1 to 2."


def test_pairs_are_searched_on_both_sides(ctx: Context, scenario: Scenario) -> None:
    scenario.benchmark("questions")
    oak = answered(ctx, "Oak", [("zero", 0.0), ("1", 1.0), ("2", 1.0)])
    elm = answered(ctx, "Elm", [("nil", 0.0), ("one", 0.0), ("2", 1.0)])
    pair = open_pair(ctx, oak.id, elm.id)
    for text, sizes in {
        "": [1, 0, 1, 1],
        "one": [1, 0, 0, 0],
        "ZERO": [0, 0, 1, 0],
        "question 2": [0, 0, 0, 1],
    }.items():
        assert [len(hashes) for hashes in group_pairs(ctx, pair, text=text).values()] == sizes, text


def test_items_of_a_running_evaluation_are_read_again(ctx: Context, scenario: Scenario) -> None:
    launched = scenario.evaluation("Oak", "questions")
    claim = claim_of(ctx, launched)
    assert list_items(ctx, launched.id, text="seven") == ([], 0)
    with ctx.db.write() as session:
        outcomes.record_events(session, ctx, claim, [event_of(item(6, {"exact_match": 1.0}, completion="seven"))])
    assert [one.number for one in list_items(ctx, launched.id, text="seven")[0]] == [7]


def test_truncated_items_lost_part_of_prompt_or_answer(ctx: Context, scenario: Scenario) -> None:
    launched = scenario.evaluation("Oak", "questions")
    shown = [{"finish_reason": "stop"}, {"finish_reason": "length"}, {"finish_reason": "stop", "cut": 3}]
    items = [item(n, {"exact_match": 0.0}, **one) for n, one in enumerate(shown)]
    items.append(item(3, {"exact_match": 0.0, "cut": 12.0}))
    finish(ctx, claim_of(ctx, launched), items, scores=[], facts={})
    listed, total = list_items(ctx, launched.id, which="truncated")
    assert ([one.position for one in listed], total) == ([1, 2, 3], 3)
    assert list_items(ctx, launched.id, positions={0, 2})[1] == 2


def test_calibration_takes_the_softmax_of_the_choices(ctx: Context, scenario: Scenario) -> None:
    launched = scenario.evaluation("Oak", "facts")
    odds = math.log(3)  # confidence 0.75 in each choice, right in half of the cases
    items = [item(n, {"acc": float(n % 2)}, logprobs=[odds - 7.0, -7.0]) for n in range(40)]
    finish(ctx, claim_of(ctx, launched), items, scores=[], facts={})
    result = read_calibration(ctx, launched.id)
    assert result is not None
    assert (result.n, result.ece, result.brier) == (40, pytest.approx(0.25), pytest.approx((0.75**2 + 0.25**2) / 2))
    assert read_calibration(ctx, scenario.evaluation("Elm", "facts", [1, 0]).id) is None


def trained(ctx: Context, *, num_found: int, searched: bool = True) -> EvaluationView:
    """A checkpoint of a run whose dataset holds items 1 and 2 of the benchmark, by its report; evaluated on four
    items.
    """
    Scenario(ctx).benchmark("facts")
    run = Scenario(ctx).run()
    checkpoint_id = Scenario(ctx).checkpoint(run=run, step=10)
    with ctx.db.write() as session:
        name = session.get_one(Checkpoint, checkpoint_id).name
        benchmark = session.scalars(
            select(DatasetVersion.id).where(DatasetVersion.content_hash == "hash of facts")
        ).one()
        data = session.scalars(select(DatasetVersion.id).where(DatasetVersion.folder == "datasets/tales")).one()
        job = add_stored_job(session, ctx, JobKind.DATA_REPORT)
        job.status = Status.FINISHED
        overlap: dict[str, Any] = {
            "benchmark": "facts",
            "split": "train",
            "row": 1,
            "kind": "run",
            "text": "",
            "words": 13,
            "share": 1.0,
        }
        report = DataReport(
            kind="text",
            trainer="pretrain",
            tokenizer="pieces",
            question=ReportQuestion(),
            splits={},
            epoch=Epoch(),
            packing=Packing(),
            contamination=[Contamination(item=number, **overlap) for number in (1, 2)],
            benchmarks=[BenchmarkChecked(name="facts", items=40, found=num_found)],
        )
        config = {
            "format": FORMAT,
            "question": ReportQuestion().model_dump(),
            "benchmarks": [benchmark] if searched else [],
        }
        row = Analysis(kind=JobKind.DATA_REPORT.value, job_id=job.id, dataset_version_id=data, config=config)
        row.result = report.model_dump(mode="json")
        session.add(row)
    return Scenario(ctx).evaluation(name, "facts", [1, 1, 0, 1])


def test_scores_are_split_by_the_items_that_the_training_data_holds(ctx: Context) -> None:
    check = check_contamination(ctx, trained(ctx, num_found=2))
    assert (check.positions, check.checked, check.unchecked) == (frozenset({0, 1}), ("tales@1",), ())
    assert check.scores is not None
    assert [part.value if part else None for part in (check.scores.clean, check.scores.contaminated)] == [0.5, 1.0]
    assert check.scores.difference is not None
    assert check.scores.difference.value == 0.5


@pytest.mark.parametrize(("num_found", "searched"), [(9, True), (2, False)], ids=["list cut short", "not searched"])
def test_without_the_whole_list_there_is_no_split(ctx: Context, num_found: int, searched: bool) -> None:
    check = check_contamination(ctx, trained(ctx, num_found=num_found, searched=searched))
    assert check.scores is None
    assert check.checked == (("tales@1",) if searched else ())
    assert check.unchecked == (() if searched else ("tales@1",))


def test_searches_that_find_nothing_are_not_remembered_without_bound(ctx: Context, scenario: Scenario) -> None:
    oak = scenario.evaluation("Oak", "facts", [1, 0])
    for n in range(items_service.MAX_REMEMBERED + 20):
        items_service.search_items(ctx, oak, f"nothing {n}")
    assert len(items_service._KNOWN) <= items_service.MAX_REMEMBERED


@pytest.mark.parametrize(("status", "times"), [(None, 1), (Status.FAILED, 0)])
def test_the_index_of_an_unfinished_evaluation_is_read_once_and_of_a_failed_one_remembered(
    ctx: Context, monkeypatch: pytest.MonkeyPatch, status: Status | None, times: int
) -> None:
    launched = Scenario(ctx).evaluation("Oak", "facts")
    claim = claim_of(ctx, launched)
    with ctx.db.write() as session:
        outcomes.record_events(session, ctx, claim, [event_of(item(0, {"acc": 1.0}))])
    if status is not None:
        end(ctx, claim, status)
        list_items(ctx, launched.id)
    reads: list[str] = []
    read = items_service._read_index
    monkeypatch.setattr(items_service, "_read_index", lambda ctx, id_: (reads.append(id_), read(ctx, id_))[1])
    assert list_items(ctx, launched.id, filter="item = 1")[1] == 1
    assert len(reads) == times
