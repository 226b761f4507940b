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
from backend.domain.jobs.states import JobKind, Status
from backend.services.context import LOCAL, Context
from backend.services.data.reports import FORMAT
from backend.services.evaluation.calibrations import read_calibration
from backend.services.evaluation.comparisons import compare
from backend.services.evaluation.contamination import check_contamination
from backend.services.evaluation.evaluations import EvaluationView, launch_evaluation
from backend.services.evaluation.items import list_items
from backend.services.evaluation.pairs import group_pairs, read_paired_items
from tests.support.battle_world import add_checkpoint
from tests.support.evaluation_world import ANSWERS, CHOICES, add_benchmark, claim_of, evaluated, finish, item
from tests.support.jobs import add_stored_job
from tests.support.run_world import add_checkpoint as add_run_checkpoint
from tests.support.run_world import add_parts, launch


@pytest.fixture
def world(ctx: Context) -> Context:
    """Two checkpoints and a benchmark."""
    for name in ("Oak", "Elm"):
        add_checkpoint(ctx, name)
    add_benchmark(ctx, "facts", CHOICES)
    return ctx


def test_pairs_are_fixed_broken_or_wrong_in_both(world: Context) -> None:
    oak = evaluated(world, "Oak", "facts", [1, 1, 0, 0, 0])
    elm = evaluated(world, "Elm", "facts", [1, 0, 1, 0, 0])
    comparison = compare(world, oak.id, elm.id)
    groups = group_pairs(world, comparison)
    places = {
        choice: [flip.first.position for flip in read_paired_items(world, comparison, hashes)]
        for choice, hashes in groups.items()
    }
    assert places == {"fixed": [2], "broken": [1], "both_wrong": [3, 4]}


def test_truncated_items_lost_part_of_prompt_or_answer(world: Context) -> None:
    add_benchmark(world, "questions", ANSWERS)
    launched = launch_evaluation(world, checkpoint="Oak", benchmark="questions", person=LOCAL)
    shown = [{"finish_reason": "stop"}, {"finish_reason": "length"}, {"finish_reason": "stop", "cut": 3}]
    items = [item(n, {"exact_match": 0.0}, **one) for n, one in enumerate(shown)]
    items.append(item(3, {"exact_match": 0.0, "cut": 12.0}))
    finish(world, claim_of(world, launched), items, scores=[], facts={})
    listed, total = list_items(world, launched.id, which="truncated")
    assert ([one.position for one in listed], total) == ([1, 2, 3], 3)
    assert list_items(world, launched.id, positions={0, 2})[1] == 2


def test_calibration_takes_the_softmax_of_the_choices(world: Context) -> None:
    launched = launch_evaluation(world, checkpoint="Oak", benchmark="facts", person=LOCAL)
    odds = math.log(3)  # confidence 0.75 in each choice, right in half of the cases
    items = [item(n, {"acc": float(n % 2)}, logprobs=[odds - 7.0, -7.0]) for n in range(40)]
    finish(world, claim_of(world, launched), items, scores=[], facts={})
    result = read_calibration(world, launched.id)
    assert result is not None
    assert (result.n, result.ece, result.brier) == (40, pytest.approx(0.25), pytest.approx((0.75**2 + 0.25**2) / 2))
    assert read_calibration(world, evaluated(world, "Elm", "facts", [1, 0]).id) is None


def trained(ctx: Context, *, num_found: int, searched: bool = True) -> EvaluationView:
    """A checkpoint of a run whose dataset holds items 1 and 2 of the benchmark, by its report; evaluated on four
    items.
    """
    add_parts(ctx)
    run = launch(ctx)
    checkpoint_id = add_run_checkpoint(ctx, run, 10)
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
    return evaluated(ctx, name, "facts", [1, 1, 0, 1])


def test_scores_are_split_by_the_items_that_the_training_data_holds(world: Context) -> None:
    check = check_contamination(world, trained(world, num_found=2))
    assert (check.positions, check.checked, check.unchecked) == (frozenset({0, 1}), ("tales@1",), ())
    assert check.scores is not None
    assert [part.value if part else None for part in (check.scores.clean, check.scores.contaminated)] == [0.5, 1.0]
    assert check.scores.difference is not None
    assert check.scores.difference.value == 0.5


@pytest.mark.parametrize(("num_found", "searched"), [(9, True), (2, False)], ids=["list cut short", "not searched"])
def test_without_the_whole_list_there_is_no_split(world: Context, num_found: int, searched: bool) -> None:
    check = check_contamination(world, trained(world, num_found=num_found, searched=searched))
    assert check.scores is None
    assert check.checked == (("tales@1",) if searched else ())
    assert check.unchecked == (() if searched else ("tales@1",))
